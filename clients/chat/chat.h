/* The verb `chat`. */
#ifndef LODGE_CLIENTS_CHAT_CHAT_H
#define LODGE_CLIENTS_CHAT_CHAT_H

/* argv without program and verb. Returns the exit code. */
int chat_main(int argc, char *const *argv);

#endif
