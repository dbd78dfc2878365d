#include "clients/chat/input.h"

#include "clients/text.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

#define MAX_MESSAGE ((size_t)64 << 20)
#define PASTE_BEGIN "\033[200~"
#define PASTE_END "\033[201~"

void chat_input_init(struct chat_input *in, const volatile sig_atomic_t *leave)
{
    *in = (struct chat_input){.terminal = isatty(0), .leave = leave};
    if (in->terminal) /* else lines could wait where no poll sees them */
        setvbuf(stdin, NULL, _IONBF, 0);
    lodge_buf_init(&in->text, MAX_MESSAGE);
    lodge_buf_init(&in->_raw, MAX_MESSAGE);
}

void chat_input_finish(struct chat_input *in)
{
    lodge_buf_finish(&in->text);
    lodge_buf_finish(&in->_raw);
    free(in->_line);
}

/* ---- lines ---- */

/* The terminal marks pastes, and echoes the marks as they are, so that they stay invisible. */
static bool mark_pastes(struct termios *saved)
{
    struct termios quiet;
    if (tcgetattr(0, saved))
        return false;
    quiet = *saved;
    quiet.c_lflag &= ~(tcflag_t)ECHOCTL;
    if (tcsetattr(0, TCSADRAIN, &quiet))
        return false;
    fprintf(stderr, "\033[?2004h");
    return true;
}

static void unmark_pastes(const struct termios *saved)
{
    fprintf(stderr, "\033[?2004l");
    tcsetattr(0, TCSADRAIN, saved);
}

static const char *last(const char *text, const char *what)
{
    const char *found = NULL;
    for (const char *at = text; (at = strstr(at, what)); at++)
        found = at;
    return found;
}

/* Is the text so far in the middle of a paste? */
static bool in_paste(const char *text)
{
    const char *begin = last(text, PASTE_BEGIN), *end = last(text, PASTE_END);
    return begin && (!end || end < begin);
}

/* Should the message go on in the next line? Removes the backslash that says so. */
static bool goes_on(struct chat_input *in)
{
    struct lodge_buf *raw = &in->_raw;
    if (!in->terminal)
        return false;
    if (in_paste(lodge_buf_text(raw)))
        return true;
    if (!raw->n || raw->data[raw->n - 1] != '\\')
        return false;
    raw->n--;
    fprintf(stderr, ". ");
    return true;
}

/* False when a signal came, also one that came just before: it is let in only while waiting. */
static bool wait_for_line(const struct chat_input *in)
{
    sigset_t signals, old;
    struct pollfd p = {.fd = 0, .events = POLLIN};
    sigemptyset(&signals);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGHUP);
    sigprocmask(SIG_BLOCK, &signals, &old);
    int n = *in->leave ? -1 : ppoll(&p, 1, NULL, &old);
    sigprocmask(SIG_SETMASK, &old, NULL);
    return n > 0;
}

static enum chat_read read_lines(struct chat_input *in)
{
    lodge_buf_clear(&in->_raw);
    for (;;) {
        if (in->terminal && !wait_for_line(in))
            return CHAT_INTERRUPTED;
        ssize_t n = getline(&in->_line, &in->_room, stdin);
        if (n < 0) {
            bool ended = feof(stdin);
            clearerr(stdin);
            return !ended ? CHAT_INTERRUPTED : in->_raw.n ? CHAT_MESSAGE : CHAT_END;
        }
        while (n > 0 && (in->_line[n - 1] == '\n' || in->_line[n - 1] == '\r'))
            n--;
        lodge_buf_append(&in->_raw, in->_line, (size_t)n);
        if (!goes_on(in))
            return CHAT_MESSAGE;
        lodge_buf_puts(&in->_raw, "\n");
    }
}

enum chat_read chat_input_read(struct chat_input *in, const char *prompt)
{
    struct termios saved;
    bool marked = in->terminal && mark_pastes(&saved);
    if (in->terminal)
        fprintf(stderr, "%s", prompt);
    enum chat_read result = read_lines(in);
    if (marked)
        unmark_pastes(&saved);
    lodge_buf_clear(&in->text);
    if (result == CHAT_MESSAGE)
        text_clean(lodge_buf_text(&in->_raw), in->_raw.n, &in->text);
    return result;
}

enum chat_read chat_input_read_all(struct chat_input *in)
{
    char piece[4096];
    size_t n;
    lodge_buf_clear(&in->_raw);
    lodge_buf_clear(&in->text);
    while ((n = fread(piece, 1, sizeof piece, stdin)) > 0)
        lodge_buf_append(&in->_raw, piece, n);
    bool ended = feof(stdin);
    clearerr(stdin);
    text_clean(lodge_buf_text(&in->_raw), in->_raw.n, &in->text);
    return !ended ? CHAT_INTERRUPTED : in->text.n ? CHAT_MESSAGE : CHAT_END;
}
