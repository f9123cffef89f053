/* Winograd's transforms of F(4x4, 3x3), written out in place of products with constant matrices. */

INLINE void rows_in(v d[6]) { /* B^T d */
    v a = d[0], b = d[1], c = d[2], e = d[3], f = d[4], g = d[5];
    v p = f - 4 * c, q = e - 4 * b, r = f - c, s = 2 * (e - b);
    d[0] = 4 * a - 5 * c + f;
    d[1] = p + q;
    d[2] = p - q;
    d[3] = r + s;
    d[4] = r - s;
    d[5] = 4 * b - 5 * e + g;
}

INLINE void rows_in_adjoint(v d[6]) { /* B d */
    v a = d[0], b = d[1], c = d[2], e = d[3], f = d[4], g = d[5];
    v p = b + c, q = b - c, r = e + f, s = 2 * (e - f);
    d[0] = 4 * a;
    d[1] = -4 * q - s + 4 * g;
    d[2] = -5 * a - 4 * p - r;
    d[3] = q + s - 5 * g;
    d[4] = a + p + r;
    d[5] = g;
}

INLINE void rows_out(const v d[6], v o[4]) { /* A^T d */
    v p = d[1] + d[2], q = d[1] - d[2], r = d[3] + d[4], s = d[3] - d[4];
    o[0] = d[0] + p + r;
    o[1] = q + 2 * s;
    o[2] = p + 4 * r;
    o[3] = q + 8 * s + d[5];
}

INLINE void rows_out_adjoint(const v o[4], v d[6]) { /* A o */
    v p = o[0] + o[2], q = o[1] + o[3], r = o[0] + 4 * o[2], s = 2 * o[1] + 8 * o[3];
    d[0] = o[0];
    d[1] = p + q;
    d[2] = p - q;
    d[3] = r + s;
    d[4] = r - s;
    d[5] = o[3];
}

INLINE void rows_filter(const v w[3], v d[6]) { /* G w */
    v a = w[0], b = w[1], c = w[2], p = (a + c) / 6, q = b / 6, r = a / 24 + c / 6, s = b / 12;
    d[0] = a / 4;
    d[1] = -p - q;
    d[2] = q - p;
    d[3] = r + s;
    d[4] = r - s;
    d[5] = c;
}

INLINE void rows_filter_adjoint(const v d[6], v w[3]) { /* G^T d */
    v p = (d[1] + d[2]) / 6, q = (d[2] - d[1]) / 6, r = d[3] + d[4], s = (d[3] - d[4]) / 12;
    w[0] = d[0] / 4 - p + r / 24;
    w[1] = q + s;
    w[2] = r / 6 - p + d[5];
}

/* Tiles lie together, [tiles][L] for each of the 36 positions, with the stride `position` between positions. */

/* The plane [height width] from its products: A^T m A, plus the bias. */
static void plane_from_products(const float *m, long position, long height, long width, v bias, float *plane) {
    long across = (width + 3) / 4;
    for (long row = 0; row < height; row += 4)
        for (long column = 0; column < width; column += 4) {
            const float *tile = m + (row / 4 * across + column / 4) * L;
            v half[6][4];
            for (int i = 0; i < 6; i++) {
                v line[6];
                for (int j = 0; j < 6; j++) line[j] = load(tile + (6 * i + j) * position);
                rows_out(line, half[i]);
            }
            for (int j = 0; j < 4 && column + j < width; j++) {
                v line[6], out[4];
                for (int i = 0; i < 6; i++) line[i] = half[i][j];
                rows_out(line, out);
                for (int i = 0; i < 4 && row + i < height; i++) store(plane + ((row + i) * width + column + j) * L, out[i] + bias);
            }
        }
}

/* The adjoint of plane_from_products without its bias. */
static void products_from_plane(const float *plane, long position, long height, long width, float *m) {
    long across = (width + 3) / 4;
    for (long row = 0; row < height; row += 4)
        for (long column = 0; column < width; column += 4) {
            float *tile = m + (row / 4 * across + column / 4) * L;
            v half[4][6];
            for (int i = 0; i < 4; i++) {
                v line[4];
                for (int j = 0; j < 4; j++)
                    line[j] = row + i < height && column + j < width ? load(plane + ((row + i) * width + column + j) * L) : splat(0);
                rows_out_adjoint(line, half[i]);
            }
            for (int j = 0; j < 6; j++) {
                v line[4], out[6];
                for (int i = 0; i < 4; i++) line[i] = half[i][j];
                rows_out_adjoint(line, out);
                for (int i = 0; i < 6; i++) store(tile + (6 * i + j) * position, out[i]);
            }
        }
}

/* The factors of the next block's products: B^T d B for every overlapping 6x6 tile of a plane that is framed by zeros. */
static void factors_from_frame(const float *frame, long position, long height, long width, float *factors) {
    long across = (width + 3) / 4, down = (height + 3) / 4, stride = (4 * across + 2) * L;
    for (long y = 0; y < down; y++)
        for (long x = 0; x < across; x++) {
            const float *corner = frame + 4 * y * stride + 4 * x * L;
            float *tile = factors + (y * across + x) * L;
            v half[6][6];
            for (int i = 0; i < 6; i++) {
                for (int j = 0; j < 6; j++) half[i][j] = load(corner + i * stride + j * L);
                rows_in(half[i]);
            }
            for (int j = 0; j < 6; j++) {
                v line[6];
                for (int i = 0; i < 6; i++) line[i] = half[i][j];
                rows_in(line);
                for (int i = 0; i < 6; i++) store(tile + (6 * i + j) * position, line[i]);
            }
        }
}

/* The adjoint of factors_from_frame; the frame holds zeros before. */
static void frame_from_factors(const float *factors, long position, long height, long width, float *frame) {
    long across = (width + 3) / 4, down = (height + 3) / 4, stride = (4 * across + 2) * L;
    for (long y = 0; y < down; y++)
        for (long x = 0; x < across; x++) {
            float *corner = frame + 4 * y * stride + 4 * x * L;
            const float *tile = factors + (y * across + x) * L;
            v half[6][6];
            for (int i = 0; i < 6; i++) {
                for (int j = 0; j < 6; j++) half[i][j] = load(tile + (6 * i + j) * position);
                rows_in_adjoint(half[i]);
            }
            for (int j = 0; j < 6; j++) {
                v line[6];
                for (int i = 0; i < 6; i++) line[i] = half[i][j];
                rows_in_adjoint(line);
                for (int i = 0; i < 6; i++) {
                    float *pixel = corner + i * stride + j * L;
                    store(pixel, load(pixel) + line[i]);
                }
            }
        }
}
