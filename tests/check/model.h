/*
 * model - what the analyser of clang-tidy cannot see across files: that err_set() and its kin
 * return the code which they were given, so that `return err_set(...)` is a failure. Put before
 * every source in its run, and in no other.
 */
#ifndef TESTS_CHECK_MODEL_H
#define TESTS_CHECK_MODEL_H

#include "common/err.h"

#define err_set(e, code, ...) ((void)(err_set)((e), (code), __VA_ARGS__), (code))
#define err_say(e, code, ...) ((void)(err_say)((e), (code), __VA_ARGS__), (code))

#endif
