/* lodge: the server program. */
#include "server/serve.h"

#include <stdio.h>
#include <string.h>

extern char **environ;

static const char usage[] = "usage: lodge VERB ...\n\n"
                            "  serve MODEL [flags]   serve a model over the OpenAI HTTP API\n"
                            "  version               print the version\n"
                            "  help                  print this\n\n"
                            "`lodge serve --help` lists the flags.\n";

int main(int argc, char **argv)
{
    const char *verb = argc > 1 ? argv[1] : "";
    if (strcmp(verb, "serve") == 0)
        return serve_main(argc - 2, argv + 2, environ);
    if (strcmp(verb, "version") == 0 || strcmp(verb, "--version") == 0) {
        printf("lodge %s\n", LODGE_VERSION);
        return 0;
    }
    if (strcmp(verb, "help") == 0 || strcmp(verb, "--help") == 0 || strcmp(verb, "-h") == 0) {
        printf("%s", usage);
        return 0;
    }
    fprintf(stderr, "%slodge: %s%s\n", usage, *verb ? "unknown verb " : "no verb", verb);
    return 2;
}
