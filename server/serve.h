/* The verb `serve`. */
#ifndef LODGE_SERVER_SERVE_H
#define LODGE_SERVER_SERVE_H

/* argv without program and verb. Returns the exit code. */
int serve_main(int argc, char *const *argv, char *const *envp);

#endif
