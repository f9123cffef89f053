/* Matrix products over panels: a matrix lies as [columns / L][rows][L], so that whatever is read at once lies together. */

/* The tile of a product that registers sum up: a half of those that there are. */
#if defined __AVX512F__
enum { ROWS = 8, PANELS = 2 };
#elif defined __AVX__ || defined __SSE__
enum { ROWS = 4, PANELS = 2 };
#else
enum { ROWS = 4, PANELS = 4 };
#endif

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

INLINE void all_rows(const float *left, const float *right, long rows, long blocks, long panel, float *to, int more, int panels) {
    long r = 0;
    for (; r + ROWS <= rows; r += ROWS) some_rows(left + r * L, right, blocks, panel, to + r * L, more, ROWS, panels);
    for (; r + 4 <= rows; r += 4) some_rows(left + r * L, right, blocks, panel, to + r * L, more, 4, panels);
    for (; r < rows; r++) some_rows(left + r * L, right, blocks, panel, to + r * L, more, 1, panels);
}

/* left [rows, L blocks] times right [L blocks, L blocks]; panels of `left` and of `to` are `panel` apart. Added where `more` is set. */
static void product(const float *left, const float *right, long rows, long blocks, long panel, float *to, int more) {
    long j = 0, square = blocks * L * L;
    for (; j + PANELS <= blocks; j += PANELS) all_rows(left, right + j * square, rows, blocks, panel, to + j * panel, more, PANELS);
    for (; j < blocks; j++) all_rows(left, right + j * square, rows, blocks, panel, to + j * panel, more, 1);
}

INLINE void some_outer(const float *left, const float *right, long rows, long panel, float *to, long to_panel, int panels) {
    Sums sums;
    begin(sums, to, to_panel, ROWS, panels, 1);
    for (long k = 0; k < rows; k++) step(sums, left + k * L, 1, right + k * L, panel, ROWS, panels);
    end(sums, to, to_panel, ROWS, panels);
}

/* Add to `to` [L, L blocks] one panel of left [rows, L], transposed, times right [rows, L blocks]. */
static void outer(const float *left, const float *right, long rows, long blocks, long panel, float *to) {
    long square = blocks * L * L;
    for (int r = 0; r < L; r += ROWS) {
        long j = 0;
        for (; j + PANELS <= blocks; j += PANELS) some_outer(left + r, right + j * panel, rows, panel, to + j * square + r * L, square, PANELS);
        for (; j < blocks; j++) some_outer(left + r, right + j * panel, rows, panel, to + j * square + r * L, square, 1);
    }
}
