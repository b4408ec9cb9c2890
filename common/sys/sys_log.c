#include "common/sys/sys_log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "common/str.h"
#include "common/sys/sys_clock.h"

/* Does JOURNAL_STREAM name what stderr is? A unit that redirects stderr inherits the variable, too.
 */
static bool stderr_is_journal(void)
{
    struct stat st;
    uint64_t dev;
    uint64_t ino;
    struct str s = str_of(getenv("JOURNAL_STREAM"));
    ptrdiff_t colon = str_find(s, ':');
    return colon > 0 && str_u64(str_slice(s, 0, (size_t)colon), &dev) == 0 &&
           str_u64(str_slice(s, (size_t)colon + 1, SIZE_MAX), &ino) == 0 &&
           fstat(STDERR_FILENO, &st) == 0 && st.st_dev == dev && st.st_ino == ino;
}

/* One system call per line: lines of threads and processes do not mix. A line that cannot be
 * written is lost: there is nobody left to tell. */
static void sink_plain(void *arg, enum log_level level, const char *line, size_t len)
{
    (void)arg;
    (void)level;
    ssize_t put = write(STDERR_FILENO, line, len);
    (void)put;
}

static void sink_journal(void *arg, enum log_level level, const char *line, size_t len)
{
    static const char *const priorities[] = {
        [LOG_ERROR] = "<3>",
        [LOG_WARN] = "<4>",
        [LOG_INFO] = "<6>",
        [LOG_DEBUG] = "<7>",
    };
    char text[3 + 16 * 1024];
    (void)arg;
    if (len > sizeof text - 3) {
        len = sizeof text - 3;
    }
    memcpy(text, priorities[level], 3);
    memcpy(text + 3, line, len);
    ssize_t put = write(STDERR_FILENO, text, 3 + len);
    (void)put;
}

void sys_log_init(enum log_level level, enum log_format format, const char *name)
{
    bool journal = stderr_is_journal();
    log_init(level, format, name, journal ? sink_journal : sink_plain, NULL,
             journal ? NULL : sys_wall_us);
}
