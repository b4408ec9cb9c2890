/*
 * banned - calls that this project does not make. The Makefile puts this file before every source
 * of agent/ and common/: a use does not compile. Names that are also ordinary words (rand, random,
 * system) cannot be forbidden here, because library headers use them; tests/check/symbols.py looks
 * for those.
 *
 * What to call instead: str and buf for text, cur for outside bytes, str_u64() and its kin for
 * numbers, rng (or sys_random) for chance, ids' time_format() for dates, err_name() and err_set()
 * for errno, sys_* wrappers for the rest.
 */
#ifndef COMMON_BANNED_H
#define COMMON_BANNED_H

/* The headers that declare them come first: afterwards the names may not even be mentioned. */
#include <alloca.h>
#include <arpa/inet.h>
#include <netdb.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>
#include <unistd.h>
#include <wchar.h>

#undef alloca
#undef gets
#undef sprintf
#undef vsprintf

/* No bounds. */
#pragma GCC poison strcpy strcat stpcpy strncpy strncat sprintf vsprintf gets alloca
/* Hidden state, or writes into its argument. */
#pragma GCC poison strtok strtok_r strsep localtime gmtime asctime ctime asctime_r ctime_r strerror
/* Errors that nobody sees, or a locale. */
#pragma GCC poison atoi atol atoll atof strtol strtoll strtoul strtoull scanf fscanf sscanf vsscanf
/* Weak, or seeded behind our back. */
#pragma GCC poison srand srandom rand_r drand48 mktemp tmpnam tempnam tmpfile
/* A shell; a child that shares memory with threads; waiting blindly; old resolvers. */
#pragma GCC poison popen vfork usleep gethostbyname gethostbyaddr inet_ntoa inet_addr inet_aton

#endif
