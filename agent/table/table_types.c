#include "agent/table/table_internal.h"

enum { KIB = 1024, MIB = 1024 * 1024 };

static const struct table_type_info infos[TABLE_TYPES] = {
    [TABLE_CAPABILITY] = { .name = "capability",
                           .ownership = TABLE_OF_NODE,
                           .value_max = 16 * KIB,
                           .rows_bytes = 64 * KIB },
    [TABLE_LOAD] = { .name = "load",
                     .ownership = TABLE_OF_NODE,
                     .is_volatile = true,
                     .value_max = 512,
                     .rows_bytes = 2 * KIB,
                     .interval_ms = 1000 },
    [TABLE_IMAGE] = { .name = "image",
                      .ownership = TABLE_OF_NODE,
                      .value_max = 4 * KIB,
                      .rows_bytes = 256 * KIB },
    [TABLE_JOB] = { .name = "job",
                    .ownership = TABLE_OF_CLUSTER,
                    .value_max = 272 * KIB, /* a document and its head */
                    .rows_bytes = 64 * MIB },
    [TABLE_TOKEN] = { .name = "token",
                      .ownership = TABLE_OF_CLUSTER,
                      .is_private = true,
                      .value_max = 4 * KIB,
                      .rows_bytes = 4 * MIB },
    [TABLE_SECRET] = { .name = "secret",
                       .ownership = TABLE_OF_CLUSTER,
                       .is_private = true,
                       .value_max = 64 * KIB + 64, /* and what sealing adds */
                       .rows_bytes = 16 * MIB },
    [TABLE_SCHEDULE] = { .name = "schedule",
                         .ownership = TABLE_OF_CLUSTER,
                         .value_max = 1 * KIB,
                         .rows_bytes = 4 * MIB },
    [TABLE_PAUSE] = { .name = "pause",
                      .ownership = TABLE_OF_CLUSTER,
                      .value_max = 256,
                      .rows_bytes = 1 * MIB },
    [TABLE_PROFILE] = { .name = "profile",
                        .ownership = TABLE_PER_ORIGIN,
                        .is_volatile = true,
                        .value_max = 2 * KIB,
                        .rows_bytes = 512 * KIB,
                        .interval_ms = 10 * 1000 },
};

/* What a type that a newer version writes may cost us: it is kept and passed on unseen. */
static const struct table_type_info unknown = {
    .name = "unknown", .ownership = TABLE_OF_CLUSTER, .value_max = 64 * KIB, .rows_bytes = 4 * MIB
};

const struct table_type_info *table_type_info(unsigned type)
{
    return type < TABLE_TYPES && infos[type].name != NULL ? &infos[type] : NULL;
}

const struct table_type_info *table_limits(unsigned type)
{
    const struct table_type_info *i = table_type_info(type);

    return i != NULL ? i : &unknown;
}

unsigned table_type_of(struct str name)
{
    for (unsigned i = 0; i < TABLE_TYPES; i++) {
        if (infos[i].name != NULL && str_eqs(name, infos[i].name)) {
            return i;
        }
    }
    return 0;
}

unsigned table_kind_of(const struct table_type_info *i)
{
    return (i->is_volatile ? TABLE_KIND_VOLATILE : 0U) |
           (i->ownership != TABLE_OF_NODE ? TABLE_KIND_CLUSTER : 0U);
}

/* What all types of a node-owned or per-origin kind may hold together in one stream. */
uint64_t table_stream_budget(unsigned kind)
{
    uint64_t sum = (uint64_t)unknown.rows_bytes;

    for (unsigned i = 0; i < TABLE_TYPES; i++) {
        if (infos[i].name != NULL && table_kind_of(&infos[i]) == kind) {
            sum += infos[i].rows_bytes;
        }
    }
    return sum;
}
