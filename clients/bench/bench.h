/* The verb `bench`. */
#ifndef LODGE_CLIENTS_BENCH_BENCH_H
#define LODGE_CLIENTS_BENCH_BENCH_H

/* argv without program and verb. Returns the exit code. */
int bench_main(int argc, char *const *argv);

#endif
