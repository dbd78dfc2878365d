/* Settings: a JSON file, or lines that are arguments (LODGE_OPT_... lines: the environment). */
#include "server/config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

#define MAX_LINES 64

static void read_settings(int argc, char *const *argv, char *const *envp)
{
    struct lodge_conf c;
    struct lodge_serve_config s;
    struct lodge_error e = {0};
    static FILE *nowhere;
    if (!nowhere)
        nowhere = fopen("/dev/null", "w");
    if (lodge_serve_config_read(&c, &s, argc, argv, envp, &e) && !*e.text)
        abort();
    json_decref(lodge_conf_json(&c));
    if (c.help && nowhere)
        lodge_conf_help(&c, nowhere);
    lodge_conf_finish(&c);
}

static void from_file(const uint8_t *data, size_t n)
{
    char path[64], flag[] = "--config", model[] = "m";
    int fd = memfd_create("config", 0);
    if (fd >= 0 && write(fd, data, n) == (ssize_t)n) {
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        char *argv[] = {model, flag, path, NULL};
        read_settings(3, argv, NULL);
    }
    close(fd);
}

static void from_lines(char *text)
{
    char *argv[MAX_LINES + 1] = {NULL}, *envp[MAX_LINES + 1] = {NULL};
    int argc = 0, n_env = 0;
    for (char *save, *line = strtok_r(text, "\n", &save); line;
         line = strtok_r(NULL, "\n", &save)) {
        if (strstr(line, "onfig") || strstr(line, "ONFIG")) /* would open any file */
            continue;
        if (strncmp(line, "LODGE_OPT_", 10) == 0 && n_env < MAX_LINES)
            envp[n_env++] = line;
        else if (argc < MAX_LINES)
            argv[argc++] = line;
    }
    read_settings(argc, argv, envp);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    if (n && data[0] == '{') {
        from_file(data, n);
        return 0;
    }
    char *text = malloc(n + 1);
    if (!text)
        return 0;
    for (size_t i = 0; i < n; i++)
        text[i] = data[i] ? (char)data[i] : '\n';
    text[n] = 0;
    from_lines(text);
    free(text);
    return 0;
}
