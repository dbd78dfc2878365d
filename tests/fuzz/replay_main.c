/* Feeds every file of the folders named on the command line to a fuzz target, so that found inputs
 * stay tests where no fuzzer is installed; each file is also replayed cut short at eight places. */
#include "base/file.h"

#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

/* A copy of exactly n bytes, so that a read past the end is seen. */
static void feed(const char *data, size_t n)
{
    uint8_t *copy = malloc(n ? n : 1);
    if (!copy)
        exit(1);
    for (size_t i = 0; i < n; i++)
        copy[i] = (uint8_t)data[i];
    LLVMFuzzerTestOneInput(copy, n);
    free(copy);
}

static int replay_file(const char *path)
{
    char *data = NULL;
    size_t n = 0;
    struct lodge_error e;
    if (lodge_file_read(path, (size_t)16 << 20, &data, &n, &e)) {
        fprintf(stderr, "%s\n", e.text);
        return 0;
    }
    for (size_t part = 0; part <= 8; part++)
        feed(data, n * part / 8);
    free(data);
    return 1;
}

int main(int argc, char **argv)
{
    int n_files = 0;
    for (int i = 1; i < argc; i++) {
        DIR *dir = opendir(argv[i]);
        if (!dir) {
            perror(argv[i]);
            return 1;
        }
        for (struct dirent *d; (d = readdir(dir));) {
            char *path = d->d_name[0] == '.' ? NULL : lodge_path_join(argv[i], d->d_name);
            if (path)
                n_files += replay_file(path);
            free(path);
        }
        closedir(dir);
    }
    printf("%d inputs replayed\n", n_files);
    return n_files ? 0 : 1;
}
