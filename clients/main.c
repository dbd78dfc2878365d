/* lodgectl: the client program. */
#include "clients/admin/admin.h"
#include "clients/bench/bench.h"
#include "clients/chat/chat.h"

#include <curl/curl.h>
#include <stdio.h>
#include <string.h>

static const char usage[] = "usage: lodgectl VERB ...\n\n"
                            "  chat      talk to a served model\n"
                            "  bench     measure a server, or compare two\n\n"
                            "  tenants   the projects that share a server\n"
                            "  keys      their API keys\n"
                            "  limits    their rates and budgets\n"
                            "  adapters  their adapters\n"
                            "  usage     what they used\n\n"
                            "  help      print this\n\n"
                            "`lodgectl VERB --help` lists a verb's flags.\n";

int main(int argc, char **argv)
{
    const char *verb = argc > 1 ? argv[1] : "";
    curl_global_init(CURL_GLOBAL_DEFAULT);
    if (strcmp(verb, "chat") == 0)
        return chat_main(argc - 2, argv + 2);
    if (strcmp(verb, "bench") == 0)
        return bench_main(argc - 2, argv + 2);
    if (admin_knows(verb))
        return admin_main(verb, argc - 2, argv + 2);
    if (strcmp(verb, "help") == 0 || strcmp(verb, "--help") == 0 || strcmp(verb, "-h") == 0) {
        printf("%s", usage);
        return 0;
    }
    fprintf(stderr, "%slodgectl: %s%s\n", usage, *verb ? "unknown verb " : "no verb", verb);
    return 2;
}
