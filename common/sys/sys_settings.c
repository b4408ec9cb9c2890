#include "common/sys/sys_settings.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "common/mem.h"
#include "common/sys/sys_file.h"

int sys_settings_load(const char *path, const char *const *overrides, size_t overrides_len,
                      struct settings *ret, struct err *e)
{
    AUTO_BUF struct buf text = BUF_INIT(CONF_FILE_MAX);
    if (path != NULL) {
        int r = sys_read_file(AT_FDCWD, path, CONF_FILE_MAX, &text, e);
        if (r != 0) {
            return r;
        }
    }
    AUTO_MEM struct settings *s = mem_alloc(sizeof *s);
    if (s == NULL) {
        return err_set(e, -ENOMEM, "read '%s'", path != NULL ? path : "");
    }
    int r = settings_parse(path != NULL ? path : "(no file)", buf_str(&text), overrides,
                           overrides_len, s, e);
    if (r != 0) {
        return r;
    }
    if (s->node.name[0] == '\0') {
        if (gethostname(s->node.name, sizeof s->node.name) < 0 || s->node.name[0] == '\0') {
            return err_say(e, -EINVAL, "the machine has no host name: set node.name");
        }
        s->node.name[sizeof s->node.name - 1] = '\0';
        r = settings_check(s, e);
        if (r != 0) {
            return err_prefix(e, "the host name does not do, set node.name");
        }
    }
    *ret = *s;
    return 0;
}
