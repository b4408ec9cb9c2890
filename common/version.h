/*
 * version - what this binary is. Defined in a file that the Makefile generates, so that a new
 * commit compiles one object only.
 */
#ifndef COMMON_VERSION_H
#define COMMON_VERSION_H

extern const char version_number[];   /* "0.1.0-dev" */
extern const char version_revision[]; /* 12 digits of the git commit, "-dirty" behind it when files
                                         differ from it; "unknown" outside a git checkout */

#endif
