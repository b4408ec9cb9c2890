/*
 * sys_token - auth.tokens_file from the file system.
 */
#ifndef COMMON_SYS_TOKEN_H
#define COMMON_SYS_TOKEN_H

#include "common/token.h"

/* Reads path; "" gives NULL: no tokens are asked for. user: who reads, for the message when it may
 * not. A file that anybody may write is refused. -EACCES, -EPERM, -ENOENT, -EINVAL, … with the
 * sentence in e. */
int sys_token_load(const char *path, const char *user, struct token_table **ret, struct err *e);

#endif
