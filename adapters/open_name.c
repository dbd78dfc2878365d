#include "adapters/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define MAX_NAME 128u
/* O_NONBLOCK: a pipe in the folder must not hold whoever opens it. */
#define FLAGS (O_RDONLY | O_CLOEXEC | O_NONBLOCK)

bool lodge_adapter_name_ok(const char *name)
{
    static const char allowed[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
    size_t n = strnlen(name, MAX_NAME + 1);
    return n >= 1 && n <= MAX_NAME && name[0] != '.' && strspn(name, allowed) == n;
}

int lodge_adapter_open_beneath(int dir_fd, const char *file)
{
    struct open_how how = {.flags = FLAGS, .resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS};
    long fd = -1;
    /* EAGAIN: a rename somewhere on the way made the kernel unsure. */
    for (int tries = 0; tries < 16; tries++) {
        fd = syscall(SYS_openat2, dir_fd, file, &how, sizeof how);
        if (fd >= 0)
            return (int)fd;
        if (errno != EAGAIN && errno != EINTR)
            break;
    }
    /* Kernels before 5.6 and strict seccomp filters lack the call. `file` is one component, so not
     * following a link there is as safe, only less generous. */
    if (errno == ENOSYS || errno == EPERM)
        fd = openat(dir_fd, file, FLAGS | O_NOFOLLOW);
    return fd >= 0 ? (int)fd : -errno;
}

int lodge_adapter_open_name(int root_fd, const char *name, int *fd, char path[64],
                            struct lodge_error *e)
{
    if (!lodge_adapter_name_ok(name))
        return lodge_fail(e, LODGE_ERR_INVALID,
                          "'%.*s' is no name of an adapter: 1 to %u letters, digits, '.', '_' and "
                          "'-', not beginning with '.'",
                          160, name, MAX_NAME);
    int got = lodge_adapter_open_beneath(root_fd, name);
    if (got == -EXDEV || got == -ELOOP)
        return lodge_fail(e, LODGE_ERR_NOT_FOUND,
                          "adapter '%s' is a link that leads out of the adapter folder; put the "
                          "files there themselves",
                          name);
    if (got == -ENOENT || got == -ENOTDIR || got == -ENXIO)
        return lodge_fail(e, LODGE_ERR_NOT_FOUND, "there is no adapter '%s' in the adapter folder",
                          name);
    if (got < 0)
        return lodge_fail(e, LODGE_ERR_IO, "adapter '%s' cannot be opened: %s", name,
                          strerror(-got));
    struct stat st;
    if (fstat(got, &st) != 0 || !(S_ISDIR(st.st_mode) || S_ISREG(st.st_mode))) {
        close(got);
        return lodge_fail(e, LODGE_ERR_NOT_FOUND, "'%s' is neither a directory nor a file", name);
    }
    *fd = got;
    snprintf(path, 64, "/proc/self/fd/%d", got);
    return 0;
}
