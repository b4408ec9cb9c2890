/*
 * insist - assertions that stay on in release builds.
 *
 * REQUIRE() states what the caller owes, INSIST() what we owe ourselves. Neither ever judges bytes
 * that came from outside: those get an error. A failed one prints the place and aborts.
 */
#ifndef COMMON_INSIST_H
#define COMMON_INSIST_H

__attribute__((noreturn, cold)) void insist_failed(const char *kind, const char *text,
                                                   const char *file, int line);

#define REQUIRE(cond) ((cond) ? (void)0 : insist_failed("REQUIRE", #cond, __FILE__, __LINE__))
#define INSIST(cond) ((cond) ? (void)0 : insist_failed("INSIST", #cond, __FILE__, __LINE__))

#define BIT(n) (1U << (n))
#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))
#define CONTAINER_OF(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))

#endif
