/* Messages from standard input.
 *
 * On a terminal the kernel's line editing serves, with two additions: text pasted into it is one
 * message whatever lines it has (bracketed paste), and a backslash at the end of a line continues
 * the message on the next. The kernel takes at most 4095 bytes a line; more comes through /read or
 * a pipe. From a pipe or file every line is a message. Thread safety: none, one owner.
 */
#ifndef LODGE_CLIENTS_CHAT_INPUT_H
#define LODGE_CLIENTS_CHAT_INPUT_H

#include "base/buf.h"

#include <signal.h>
#include <stdbool.h>

struct chat_input {
    bool terminal;                      /* standard input is one */
    const volatile sig_atomic_t *leave; /* set by a signal that ends the program */
    struct lodge_buf text;              /* the message, valid until the next read */
    struct lodge_buf _raw;
    char *_line;
    size_t _room;
};

enum chat_read {
    CHAT_MESSAGE,
    CHAT_END,         /* of the input: Ctrl-D */
    CHAT_INTERRUPTED, /* by a signal; what was typed is dropped */
};

void chat_input_init(struct chat_input *in, const volatile sig_atomic_t *leave);
void chat_input_finish(struct chat_input *in);
enum chat_read chat_input_read(struct chat_input *in, const char *prompt);
/* Everything up to the end of the input as one message. */
enum chat_read chat_input_read_all(struct chat_input *in);

#endif
