/* Matrix products over panels: a matrix lies as [columns / L][rows][L], so that whatever is read at once lies together. */

/* The tile of a product that registers sum up: half of the registers that there are, or three quarters where that is too few to hide a
 * multiply-add's latency. OUTER is that of `outer`, a divisor of L. */
#if defined __AVX512F__
enum { ROWS = 8, PANELS = 2, OUTER = 8 };
#elif defined __AVX__ || defined __SSE__
enum { ROWS = 6, PANELS = 2, OUTER = 4 };
#else
enum { ROWS = 4, PANELS = 4, OUTER = 4 };
#endif

#define LINE 16 /* numbers in a cache line */

typedef v Sums[ROWS][PANELS];

INLINE void begin(Sums sums, const float *from, long panel, int rows, int panels, int more) {
    for (int r = 0; r < rows; r++)
        for (int j = 0; j < panels; j++) sums[r][j] = more ? load(from + j * panel + r * L) : splat(0);
}

INLINE void end(Sums sums, float *to, long panel, int rows, int panels) {
    for (int r = 0; r < rows; r++)
        for (int j = 0; j < panels; j++) store(to + j * panel + r * L, sums[r][j]);
}

/* One column of the left factor, whose rows are `apart`, times one row of the right one. */
INLINE void step(Sums sums, const float *left, long apart, const float *right, long panel, int rows, int panels) {
    v row[PANELS];
    for (int j = 0; j < panels; j++) row[j] = load(right + j * panel);
    for (int r = 0; r < rows; r++)
        for (int j = 0; j < panels; j++) sums[r][j] += left[r * apart] * row[j];
}

INLINE void some_rows(const float *left, const float *right, long blocks, long panel, float *to, int more, int rows, int panels) {
    Sums sums;
    begin(sums, to, panel, rows, panels, more);
    for (long k = 0; k < blocks * L; k += L)
        for (int l = 0; l < L; l++) step(sums, left + k / L * panel + l, L, right + (k + l) * L, blocks * L * L, rows, panels);
    end(sums, to, panel, rows, panels);
}

/* What the next product reads. It is asked for a little with every tile of this one: its runs are too short for the processor to see them coming,
 * and asked for at once they would hold this product up. */
typedef struct { const float *from, *end; } Ahead;

INLINE Ahead ahead(const float *from, long numbers) { return (Ahead){from, from + numbers}; }

INLINE void ask(Ahead *next, long numbers) {
    for (; numbers > 0 && next->from < next->end; numbers -= LINE, next->from += LINE) __builtin_prefetch(next->from);
}

INLINE void all_rows(const float *left, const float *right, long rows, long blocks, long panel, float *to, int more, int panels, Ahead *next) {
    for (long r = 0, count; r < rows; r += count) {
        long there = rows - r;
        count = there >= ROWS && there != ROWS + 2 ? ROWS : there >= 4 ? 4 : 1; /* 8 are 4 and 4, not 6, 1 and 1 */
        ask(next, count * panels * L);
        if (count == ROWS)
            some_rows(left + r * L, right, blocks, panel, to + r * L, more, ROWS, panels);
        else if (count == 4)
            some_rows(left + r * L, right, blocks, panel, to + r * L, more, 4, panels);
        else
            some_rows(left + r * L, right, blocks, panel, to + r * L, more, 1, panels);
    }
}

/* left [rows, L blocks] times right [L blocks, L blocks]; panels of `left` and of `to` are `panel` apart. Added where `more` is set. */
static void product(const float *left, const float *right, long rows, long blocks, long panel, float *to, int more, Ahead next) {
    long j = 0, square = blocks * L * L;
    for (; j + PANELS <= blocks; j += PANELS)
        all_rows(left, right + j * square, rows, blocks, panel, to + j * panel, more, PANELS, &next);
    for (; j < blocks; j++) all_rows(left, right + j * square, rows, blocks, panel, to + j * panel, more, 1, &next);
}

INLINE void some_outer(const float *left, const float *right, long rows, long panel, float *to, long to_panel, int panels) {
    Sums sums;
    begin(sums, to, to_panel, OUTER, panels, 1);
    for (long k = 0; k < rows; k++) step(sums, left + k * L, 1, right + k * L, panel, OUTER, panels);
    end(sums, to, to_panel, OUTER, panels);
}

INLINE void all_outer(const float *left, const float *right, long rows, long blocks, long panel, float *to, int panels, Ahead next[2]) {
    for (long block = 0; block < blocks; block++) {
        for (int k = 0; k < 2; k++) ask(next + k, (rows * panels * L + blocks - 1) / blocks);
        for (int r = 0; r < L; r += OUTER)
            some_outer(left + block * panel + r, right, rows, panel, to + (block * L + r) * L, blocks * L * L, panels);
    }
}

/* Add to `to` [L blocks, L blocks] left [rows, L blocks], transposed, times right [rows, L blocks]. */
static void outer(const float *left, const float *right, long rows, long blocks, long panel, float *to, Ahead next_left, Ahead next_right) {
    long j = 0, square = blocks * L * L;
    Ahead next[] = {next_left, next_right};
    for (; j + PANELS <= blocks; j += PANELS) all_outer(left, right + j * panel, rows, blocks, panel, to + j * square, PANELS, next);
    for (; j < blocks; j++) all_outer(left, right + j * panel, rows, blocks, panel, to + j * square, 1, next);
}
