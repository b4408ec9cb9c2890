/* The progress line. */
#include <unistd.h>

#include "agent/cli/sys_cli.h"
#include "common/sys/sys.h"

enum { REDRAW_US = 100 * 1000, LINE_US = 1000 * 1000, BAR_WIDTH = 20 };

bool cli_is_tty(int fd)
{
    return isatty(fd) == 1;
}

void cli_progress_init(struct cli_progress *p, bool on)
{
    *p = (struct cli_progress){ .on = on, .tty = cli_is_tty(STDERR_FILENO) };
}

bool cli_progress_due(const struct cli_progress *p)
{
    return p->on && sys_mono_us() >= p->next_us;
}

void cli_progress_show(struct cli_progress *p, const char *text)
{
    if (!p->on) {
        return;
    }
    AUTO_BUF struct buf b = BUF_INIT(4096);
    (void)buf_addf(&b, p->tty ? "\r%s\033[K" : "%s\n", text);
    (void)sys_write_full(STDERR_FILENO, buf_cstr(&b), b.len);
    p->shown = true;
    p->next_us = sys_mono_us() + (p->tty ? REDRAW_US : LINE_US);
}

void cli_progress_clear(struct cli_progress *p)
{
    if (p->on && p->tty && p->shown) {
        (void)sys_write_full(STDERR_FILENO, "\r\033[K", 4);
    }
    p->shown = false;
    p->next_us = 0;
}

void cli_progress_bar(struct buf *out, uint64_t done, uint64_t total)
{
    double part = total > 0 ? (double)done / (double)total : 1;
    size_t full = part >= 1 ? BAR_WIDTH : (size_t)(part * BAR_WIDTH);
    (void)buf_addc(out, '[');
    for (size_t i = 0; i < BAR_WIDTH; i++) {
        (void)buf_addc(out, i < full ? '#' : ' ');
    }
    (void)buf_addc(out, ']');
}
