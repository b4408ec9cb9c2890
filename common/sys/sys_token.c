#include "common/sys/sys_token.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "common/sys/sys.h"

int sys_token_load(const char *path, const char *user, struct token_table **ret, struct err *e)
{
    AUTO_BUF struct buf text = BUF_INIT(TOKEN_FILE_MAX + 64 * 1024);
    struct err why = { .code = 0 };
    struct stat st;
    if (path[0] == '\0') {
        *ret = NULL;
        return 0;
    }
    int rc = sys_read_file(AT_FDCWD, path, TOKEN_FILE_MAX, &text, &why);
    if (rc == -EACCES || rc == -EPERM) {
        return err_say(
            e, rc,
            "auth.tokens_file: '%s' can not be read by '%s' (node.user): chgrp it to the "
            "user's group, chmod 640, and let the directories above be searched",
            path, user);
    }
    if (rc != 0) {
        return err_say(e, rc, "auth.tokens_file: %s", err_text(&why));
    }
    if (stat(path, &st) == 0 && S_ISREG(st.st_mode) && (st.st_mode & S_IWOTH) != 0) {
        return err_say(e, -EINVAL,
                       "auth.tokens_file: anybody may write '%s', and so make tokens: chmod o-w",
                       path);
    }
    return token_table_parse(path, buf_str(&text), ret, e);
}
