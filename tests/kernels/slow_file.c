#include "tests/kernels/slow_file.h"

#include "kernels/weights_file.h"

#include <unistd.h>

static atomic_bool held;
static atomic_uint n_waiting;

int __real_lodge_weights_file_read(const struct lodge_weights_file *f, size_t i, uint8_t *weights,
                                   const atomic_bool *stop, struct lodge_error *e);
int __wrap_lodge_weights_file_read(const struct lodge_weights_file *f, size_t i, uint8_t *weights,
                                   const atomic_bool *stop, struct lodge_error *e);

int __wrap_lodge_weights_file_read(const struct lodge_weights_file *f, size_t i, uint8_t *weights,
                                   const atomic_bool *stop, struct lodge_error *e)
{
    atomic_fetch_add(&n_waiting, 1);
    while (atomic_load(&held) && !atomic_load(stop))
        usleep(1000);
    atomic_fetch_sub(&n_waiting, 1);
    return __real_lodge_weights_file_read(f, i, weights, stop, e);
}

void slow_file_hold(void)
{
    atomic_store(&held, true);
}

void slow_file_release(void)
{
    atomic_store(&held, false);
}

void slow_file_await_reader(void)
{
    while (!atomic_load(&n_waiting))
        usleep(1000);
}
