/* A file of packed weights that is as slow as the test says: while it is held, whoever reads a
 * block of it waits, until it is released or the reader is stopped. Link slow_file.c with
 * -Wl,--wrap=lodge_weights_file_read. Any thread. */
#ifndef LODGE_TESTS_SLOW_FILE_H
#define LODGE_TESTS_SLOW_FILE_H

void slow_file_hold(void);
void slow_file_release(void);
/* Returns when a reader waits. */
void slow_file_await_reader(void);

#endif
