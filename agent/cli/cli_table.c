/* Tables: cells in, aligned lines out. */
#include <errno.h>

#include "agent/cli/cli_internal.h"
#include "common/insist.h"

struct cli_cell {
    size_t at, len; /* in the table's text */
    size_t width;
    enum cli_colour colour;
};

void cli_table_init(struct cli_table *t, const char *const *heads)
{
    memset(t, 0, sizeof(*t));
    while (heads[t->columns] != NULL) {
        REQUIRE(t->columns < CLI_COLUMNS_MAX);
        t->heads[t->columns] = heads[t->columns];
        t->columns++;
    }
    buf_init(&t->text, CLI_TABLE_MAX);
    buf_init(&t->cells, CLI_TABLE_MAX);
}

void cli_table_release(struct cli_table *t)
{
    buf_release(&t->text);
    buf_release(&t->cells);
}

void cli_table_cell(struct cli_table *t, enum cli_colour colour, struct str text)
{
    size_t at = t->text.len;
    cli_text_safe(&t->text, text);
    if (buf_error(&t->text) != 0) {
        return;
    }
    struct str safe = { t->text.data != NULL ? t->text.data + at : "", t->text.len - at };
    struct cli_cell cell = {
        .at = at, .len = safe.n, .width = cli_text_width(safe), .colour = colour
    };
    (void)buf_add(&t->cells, &cell, sizeof(cell));
}

void cli_table_cellf(struct cli_table *t, enum cli_colour colour, const char *fmt, ...)
{
    AUTO_BUF struct buf b = BUF_INIT(64 * 1024);
    va_list ap;
    va_start(ap, fmt);
    (void)buf_vaddf(&b, fmt, ap);
    va_end(ap);
    cli_table_cell(t, colour, buf_str(&b));
}

static size_t cells_len(const struct cli_table *t)
{
    return t->cells.len / sizeof(struct cli_cell);
}

static struct cli_cell cell_at(const struct cli_table *t, size_t i)
{
    struct cli_cell c;
    memcpy(&c, t->cells.data + i * sizeof(c), sizeof(c));
    return c;
}

size_t cli_table_rows(const struct cli_table *t)
{
    return cells_len(t) / t->columns;
}

const char *cli_colour_on(enum cli_colour c, bool on)
{
    static const char *const codes[] = {
        [CLI_PLAIN] = "",          [CLI_RED] = "\033[31m",  [CLI_GREEN] = "\033[32m",
        [CLI_YELLOW] = "\033[33m", [CLI_BLUE] = "\033[36m", [CLI_DIM] = "\033[2m",
        [CLI_BOLD] = "\033[1m",
    };
    return on ? codes[c] : "";
}

const char *cli_colour_off(bool on)
{
    return on ? "\033[0m" : "";
}

/* One cell, padded; the last column of a line is not. */
static void render_cell(struct buf *out, struct str text, size_t width, size_t column_width,
                        bool right, bool last, const char *on, const char *off)
{
    int pad = (int)(column_width - width);
    if (right) {
        (void)buf_addf(out, "%*s", pad, "");
    }
    (void)buf_adds(out, on);
    (void)buf_addstr(out, text);
    (void)buf_adds(out, off);
    if (!right && !last) {
        (void)buf_addf(out, "%*s", pad, "");
    }
    (void)buf_adds(out, last ? "\n" : "  ");
}

int cli_table_render(const struct cli_table *t, bool heads, bool colour, struct buf *out)
{
    size_t widths[CLI_COLUMNS_MAX] = { 0 };
    const char *names[CLI_COLUMNS_MAX];
    bool right[CLI_COLUMNS_MAX];
    REQUIRE(t->columns > 0);
    for (size_t c = 0; c < t->columns; c++) {
        right[c] = t->heads[c][0] == '>';
        names[c] = t->heads[c] + (right[c] ? 1 : 0);
        widths[c] = heads ? strlen(names[c]) : 0;
    }
    size_t len = cells_len(t);
    for (size_t i = 0; i < len; i++) {
        struct cli_cell cell = cell_at(t, i);
        size_t *w = &widths[i % t->columns];
        *w = cell.width > *w ? cell.width : *w;
    }
    for (size_t c = 0; heads && c < t->columns; c++) {
        render_cell(out, str_of(names[c]), strlen(names[c]), widths[c], right[c],
                    c + 1 == t->columns, cli_colour_on(CLI_BOLD, colour), cli_colour_off(colour));
    }
    for (size_t i = 0; i < len; i++) {
        struct cli_cell cell = cell_at(t, i);
        size_t c = i % t->columns;
        bool paint = colour && cell.colour != CLI_PLAIN;
        render_cell(out, (struct str){ t->text.data + cell.at, cell.len }, cell.width, widths[c],
                    right[c], c + 1 == t->columns, cli_colour_on(cell.colour, paint),
                    cli_colour_off(paint));
    }
    if (buf_error(&t->text) != 0 || buf_error(&t->cells) != 0) {
        return buf_error(&t->text) != 0 ? buf_error(&t->text) : buf_error(&t->cells);
    }
    return buf_error(out);
}
