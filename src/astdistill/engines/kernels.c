/* One block of the ConvNet (3x3 convolution, instance norm, ReLU, 2x2 average pooling) on a CPU: forward, tangent, and the adjoints of both.
 *
 * Convolutions between blocks are Winograd's F(4x4, 3x3) (Lavin and Gray, arXiv 1509.09308): 36 matrix products, done by the caller, around
 * two transforms, done here. They cost a quarter of the multiplications of the direct form. The first convolution sees so few channels that it
 * is done directly.
 *
 * Everything here is a loop over (image, block of 16 channels); such a plane fits into a core's cache, so that a whole block is computed
 * between reading its products and writing the next ones. Planes are [h w][16]. "Products" are [36 positions][tiles][channels] with the stride
 * `position` between positions. A dot names a tangent; `a` is the adjoint of a tangent and `b` that of a value.
 */

#include <stdlib.h>
#include <string.h>

#define L 16

typedef float v __attribute__((vector_size(64), aligned(4), may_alias));
typedef int vi __attribute__((vector_size(64), aligned(4), may_alias));

#define INLINE static inline __attribute__((always_inline))

INLINE v splat(float number) { return number - (v){}; }
INLINE v load(const float *from) { return *(const v *)from; }
INLINE void store(float *to, v value) { *(v *)to = value; }
INLINE v where(vi mask, v value) { return (v)((vi)value & mask); }
INLINE vi positive(v value) { return ~(vi)(value <= 0); } /* what is not a number passes, as in torch */

typedef struct {
    long images, blocks;      /* n, and channels / 16 */
    long height, width;       /* of the convolution's output; the block's output is half of both */
    long inputs;              /* channels of the images for a first block, 0 for any other */
    long last;                /* whether the block's output goes to the linear layer as [n, channels, h/2, w/2] instead of as products */
    long position_in, position_out; /* strides of the products that come in, and of those that go out */
    long threads;
} Shape;

/* Memory for so many numbers, on a vector's boundary. */
static float *room(long numbers) { return aligned_alloc(64, (numbers * sizeof(float) + 63) / 64 * 64); }

/* ---- Winograd's transforms of one 6x6 tile, in place of a matrix product each ---- */

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

/* The plane [height width] from its products: A^T m A, plus the bias. */
static void plane_from_products(const float *m, long position, long channels, long height, long width, v bias, float *plane) {
    long across = (width + 3) / 4;
    for (long row = 0; row < height; row += 4)
        for (long column = 0; column < width; column += 4) {
            const float *tile = m + (row / 4 * across + column / 4) * channels;
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
static void products_from_plane(const float *plane, long position, long channels, long height, long width, float *m) {
    long across = (width + 3) / 4;
    for (long row = 0; row < height; row += 4)
        for (long column = 0; column < width; column += 4) {
            float *tile = m + (row / 4 * across + column / 4) * channels;
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
static void factors_from_frame(const float *frame, long position, long channels, long height, long width, float *factors) {
    long across = (width + 3) / 4, down = (height + 3) / 4, stride = (4 * across + 2) * L;
    for (long y = 0; y < down; y++)
        for (long x = 0; x < across; x++) {
            const float *corner = frame + 4 * y * stride + 4 * x * L;
            float *tile = factors + (y * across + x) * channels;
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
static void frame_from_factors(const float *factors, long position, long channels, long height, long width, float *frame) {
    long across = (width + 3) / 4, down = (height + 3) / 4, stride = (4 * across + 2) * L;
    for (long y = 0; y < down; y++)
        for (long x = 0; x < across; x++) {
            float *corner = frame + 4 * y * stride + 4 * x * L;
            const float *tile = factors + (y * across + x) * channels;
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

/* ---- The first convolution, direct ---- */

/* A copy of one image's channels, each framed by a ring of zeros. */
static void frame_image(const float *image, long inputs, long height, long width, float *framed) {
    long stride = width + 2, size = (height + 2) * stride;
    memset(framed, 0, inputs * size * sizeof(float));
    for (long c = 0; c < inputs; c++)
        for (long y = 0; y < height; y++)
            memcpy(framed + c * size + (y + 1) * stride + 1, image + (c * height + y) * width, width * sizeof(float));
}

INLINE void some_pixels(const float *framed, const float *weight, long inputs, long stride, long size, v bias, float *to, int count) {
    v sum[8];
    for (int p = 0; p < count; p++) sum[p] = bias;
    for (long c = 0; c < inputs; c++)
        for (int i = 0; i < 3; i++)
            for (int j = 0; j < 3; j++) {
                v w = load(weight + (9 * c + 3 * i + j) * L);
                const float *from = framed + c * size + i * stride + j;
                for (int p = 0; p < count; p++) sum[p] += w * from[p];
            }
    for (int p = 0; p < count; p++) store(to + p * L, sum[p]);
}

static void plane_from_image(const float *framed, const float *weight, long inputs, long height, long width, v bias, float *plane) {
    long stride = width + 2, size = (height + 2) * stride;
    for (long y = 0; y < height; y++) {
        long x = 0;
        for (; x + 8 <= width; x += 8) some_pixels(framed + y * stride + x, weight, inputs, stride, size, bias, plane + (y * width + x) * L, 8);
        for (; x < width; x++) some_pixels(framed + y * stride + x, weight, inputs, stride, size, bias, plane + (y * width + x) * L, 1);
    }
}

/* ---- Instance norm, ReLU and pooling ---- */

typedef struct { v mean, scale; } Stats; /* mean and 1 / sqrt(variance + eps) */

static Stats statistics(const float *plane, long pixels) {
    v sum[4] = {}, square[4] = {};
    for (long p = 0; p < pixels; p += 4)
        for (int k = 0; k < 4; k++) sum[k] += load(plane + (p + k) * L);
    v mean = (sum[0] + sum[1] + sum[2] + sum[3]) / (float)pixels;
    for (long p = 0; p < pixels; p += 4)
        for (int k = 0; k < 4; k++) {
            v far = load(plane + (p + k) * L) - mean;
            square[k] += far * far;
        }
    v variance = (square[0] + square[1] + square[2] + square[3]) / (float)pixels + 1e-5f;
    v scale;
    for (int k = 0; k < L; k++) scale[k] = 1.0f / __builtin_sqrtf(variance[k]);
    return (Stats){mean, scale};
}

/* Output pixel (y, x) of a pooled plane goes to to[(y * row + x) * L]. */
static void activate(const float *z, Stats s, v gamma, v beta, long height, long width, float *to, long row) {
    v slope = gamma * s.scale, offset = beta - s.mean * slope;
    for (long y = 0; y < height; y += 2)
        for (long x = 0; x < width; x += 2) {
            v sum = splat(0);
            for (int k = 0; k < 4; k++) {
                v value = load(z + ((y + k / 2) * width + x + k % 2) * L) * slope + offset;
                sum += where(positive(value), value);
            }
            store(to + (y / 2 * row + x / 2) * L, 0.25f * sum);
        }
}

/* The means that the tangent of the norm needs: of the tangent, and of x̂ times it. */
typedef struct { v plain, normed; } Means;

static Means tangent_means(const float *z, const float *zdot, Stats s, long pixels) {
    v plain[2] = {}, normed[2] = {};
    for (long p = 0; p < pixels; p += 2)
        for (int k = 0; k < 2; k++) {
            v dot = load(zdot + (p + k) * L);
            plain[k] += dot;
            normed[k] += (load(z + (p + k) * L) - s.mean) * dot;
        }
    return (Means){(plain[0] + plain[1]) / (float)pixels, (normed[0] + normed[1]) * s.scale / (float)pixels};
}

static void activate_tangent(const float *z, const float *zdot, Stats s, v gamma, v gammadot, v beta, v betadot, long height, long width,
                             float *to, long row) {
    Means m = tangent_means(z, zdot, s, height * width);
    v slope = gamma * s.scale, offset = beta - s.mean * slope;
    v across = (gammadot - slope * m.normed) * s.scale, constant = betadot - slope * m.plain - across * s.mean;
    for (long y = 0; y < height; y += 2)
        for (long x = 0; x < width; x += 2) {
            v sum = splat(0);
            for (int k = 0; k < 4; k++) {
                long pixel = ((y + k / 2) * width + x + k % 2) * L;
                v value = load(z + pixel);
                sum += where(positive(value * slope + offset), load(zdot + pixel) * slope + value * across + constant);
            }
            store(to + (y / 2 * row + x / 2) * L, 0.25f * sum);
        }
}

/* The adjoint of z from that of the pooled output; adjoints of gamma and beta. */
static void pull_back(const float *z, Stats s, v gamma, v beta, const float *b, long row, long height, long width, float *bz, float *dgamma,
                      float *dbeta) {
    v slope = gamma * s.scale, offset = beta - s.mean * slope, sum = splat(0), normed = splat(0);
    for (long y = 0; y < height; y += 2)
        for (long x = 0; x < width; x += 2) {
            v up = 0.25f * load(b + (y / 2 * row + x / 2) * L);
            for (int k = 0; k < 4; k++) {
                long pixel = ((y + k / 2) * width + x + k % 2) * L;
                v value = load(z + pixel), passed = where(positive(value * slope + offset), up);
                sum += passed;
                normed += passed * (value - s.mean);
                store(bz + pixel, passed);
            }
        }
    normed *= s.scale;
    store(dgamma, normed);
    store(dbeta, sum);
    float pixels = (float)(height * width);
    v constant = -slope * sum / pixels, along = -slope * s.scale * normed / pixels;
    constant -= along * s.mean;
    for (long p = 0; p < height * width; p++) store(bz + p * L, slope * load(bz + p * L) + along * load(z + p * L) + constant);
}

/* The same for the pair (output, tangent of the output), with adjoints (b, a). See docs/architecture.md for the formula. */
static void pull_back_pair(const float *z, const float *zdot, Stats s, v gamma, v gammadot, v beta, const float *a, const float *b, long row,
                           long height, long width, float *az, float *bz, float *dgamma, float *dbeta) {
    float pixels = (float)(height * width);
    Means m = tangent_means(z, zdot, s, height * width);
    v slope = gamma * s.scale, offset = beta - s.mean * slope;
    v suma = splat(0), sumb = splat(0), ax = splat(0), bx = splat(0), ad = splat(0);
    for (long y = 0; y < height; y += 2)
        for (long x = 0; x < width; x += 2) {
            v upa = 0.25f * load(a + (y / 2 * row + x / 2) * L), upb = 0.25f * load(b + (y / 2 * row + x / 2) * L);
            for (int k = 0; k < 4; k++) {
                long pixel = ((y + k / 2) * width + x + k % 2) * L;
                v value = load(z + pixel);
                vi mask = positive(value * slope + offset);
                v pa = where(mask, upa), pb = where(mask, upb), far = value - s.mean;
                suma += pa;
                sumb += pb;
                ax += pa * far;
                bx += pb * far;
                ad += pa * load(zdot + pixel);
                store(az + pixel, pa);
                store(bz + pixel, pb);
            }
        }
    ax *= s.scale;
    bx *= s.scale;
    v aq = s.scale * (ad - m.plain * suma - m.normed * ax); /* sum of a times the tangent of x̂ */
    store(dgamma, aq + bx);
    store(dbeta, sumb);
    v s1 = gamma * ax / pixels; /* mean of x̂ Q, where Q = gamma a */
    v ka = gammadot - slope * m.normed;
    v mean = (ka * suma + gamma * sumb) / pixels - s.scale * m.plain * s1;
    v normed = (ka * ax + gamma * bx) / pixels - s.scale * m.normed * s1 + gamma * aq / pixels;
    v meana = gamma * suma / pixels;
    for (long p = 0; p < height * width; p++) {
        v far = (load(z + p * L) - s.mean) * s.scale, pa = load(az + p * L), pb = load(bz + p * L);
        store(az + p * L, s.scale * (gamma * pa - meana - far * s1));
        store(bz + p * L, s.scale * (ka * pa + gamma * pb - s.scale * s1 * load(zdot + p * L) - mean - far * normed));
    }
}

/* ---- Blocks ---- */

static long tiles(long height, long width) { return (height + 3) / 4 * ((width + 3) / 4); }

/* A frame around a plane of the pooled size, wide enough for whole tiles. */
static long frame_row(long width) { return 4 * ((width + 3) / 4) + 2; }
static long frame_size(long height, long width) { return frame_row(height) * frame_row(width) * L; }

/* Hand a pooled plane in its frame on: as factors of the next products, or channel by channel to the linear layer. */
static void hand_on(const Shape *k, long image, long block, const float *frame, float *out) {
    long height = k->height / 2, width = k->width / 2, channels = k->blocks * L, row = frame_row(width);
    if (!k->last) {
        factors_from_frame(frame, k->position_out, channels, height, width, out + image * tiles(height, width) * channels + block * L);
        return;
    }
    for (long c = 0; c < L; c++)
        for (long y = 0; y < height; y++)
            for (long x = 0; x < width; x++)
                out[((image * channels + block * L + c) * height + y) * width + x] = frame[((y + 1) * row + x + 1) * L + c];
}

/* The adjoint of hand_on; the frame holds zeros before. */
static void take_back(const Shape *k, long image, long block, const float *adjoint, float *frame) {
    long height = k->height / 2, width = k->width / 2, channels = k->blocks * L, row = frame_row(width);
    if (!k->last) {
        frame_from_factors(adjoint + image * tiles(height, width) * channels + block * L, k->position_out, channels, height, width, frame);
        return;
    }
    for (long c = 0; c < L; c++)
        for (long y = 0; y < height; y++)
            for (long x = 0; x < width; x++)
                frame[((y + 1) * row + x + 1) * L + c] = adjoint[((image * channels + block * L + c) * height + y) * width + x];
}

typedef struct {
    const float *source;   /* images [n, inputs, h, w] of a first block, else products */
    const float *weight;   /* of a first block: [blocks][9 inputs][16] */
    const float *bias, *gamma, *beta;
    float *z;              /* [n][blocks][h w][16] */
    float *out;
} Flow;

static void convolve(const Shape *k, const Flow *f, long image, long block, float *framed, float *z) {
    long channels = k->blocks * L;
    v bias = load(f->bias + block * L);
    if (k->inputs) {
        frame_image(f->source + image * k->inputs * k->height * k->width, k->inputs, k->height, k->width, framed);
        plane_from_image(framed, f->weight + block * 9 * k->inputs * L, k->inputs, k->height, k->width, bias, z);
    } else
        plane_from_products(f->source + image * tiles(k->height, k->width) * channels + block * L, k->position_in, channels, k->height,
                            k->width, bias, z);
}

/* Forward through one block: values where `primal` is set (else z and stats are read), tangents where `dot` is given. */
void block_forward(const Shape *k, const Flow *f, const Flow *dot, float *stats, long primal) {
    long pixels = k->height * k->width, row = frame_row(k->width / 2), size = frame_size(k->height / 2, k->width / 2);
    long framed_size = k->inputs * (k->height + 2) * (k->width + 2) + L;
#pragma omp parallel num_threads(k->threads)
    {
        float *frame = room(size + framed_size), *framed = frame + size, *inside = frame + (row + 1) * L;
        memset(frame, 0, size * sizeof(float));
#pragma omp for collapse(2) schedule(static)
        for (long image = 0; image < k->images; image++)
            for (long block = 0; block < k->blocks; block++) {
                long at = image * k->blocks + block;
                float *z = f->z + at * pixels * L, *kept = stats + at * 2 * L;
                v gamma = load(f->gamma + block * L), beta = load(f->beta + block * L);
                if (primal) {
                    convolve(k, f, image, block, framed, z);
                    Stats s = statistics(z, pixels);
                    store(kept, s.mean);
                    store(kept + L, s.scale);
                    activate(z, s, gamma, beta, k->height, k->width, inside, row);
                    hand_on(k, image, block, frame, f->out);
                }
                if (dot) {
                    float *zdot = dot->z + at * pixels * L;
                    Stats s = {load(kept), load(kept + L)};
                    convolve(k, dot, image, block, framed, zdot);
                    activate_tangent(z, zdot, s, gamma, load(dot->gamma + block * L), beta, load(dot->beta + block * L), k->height, k->width,
                                     inside, row);
                    hand_on(k, image, block, frame, dot->out);
                }
            }
        free(frame);
    }
}

/* ---- Back through blocks ---- */

#define LOW8(a, b) __builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23)
#define HIGH8(a, b) __builtin_shufflevector(a, b, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31)
#define LOW4(a, b) __builtin_shufflevector(a, b, 0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27)
#define HIGH4(a, b) __builtin_shufflevector(a, b, 4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31)
#define LOW2(a, b) __builtin_shufflevector(a, b, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29)
#define HIGH2(a, b) __builtin_shufflevector(a, b, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31)
#define LOW1(a, b) __builtin_shufflevector(a, b, 0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30)
#define HIGH1(a, b) __builtin_shufflevector(a, b, 1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31)
#define SWAP(k)                                  \
    for (int i = 0; i < L; i++)                  \
        if (!(i & k)) {                          \
            v low = LOW##k(to[i], to[i + k]);    \
            to[i + k] = HIGH##k(to[i], to[i + k]); \
            to[i] = low;                         \
        }

/* 16 pixels of 16 channels, as 16 channels of 16 pixels: off-diagonal blocks of 8, 4, 2 and 1 change places. */
INLINE void transpose(const float *from, v to[L]) {
    for (int p = 0; p < L; p++) to[p] = load(from + p * L);
    SWAP(8)
    SWAP(4)
    SWAP(2)
    SWAP(1)
}

/* Add to each tap's plane [h w] what 16 pixels of one plane send through the block's weights. */
static void taps_from_pixels(const float *plane, const float *weight, long inputs, long pixels, float *taps) {
    v turned[L];
    transpose(plane, turned);
    for (long c = 0; c < inputs; c++) {
        v sum[9];
        for (int t = 0; t < 9; t++) sum[t] = load(taps + (9 * c + t) * pixels);
        for (int l = 0; l < L; l++)
            for (int t = 0; t < 9; t++) sum[t] += turned[l] * weight[(9 * c + t) * L + l];
        for (int t = 0; t < 9; t++) store(taps + (9 * c + t) * pixels, sum[t]);
    }
}

/* The adjoint of the weights [9 inputs][16] of one plane. */
static void weights_from_plane(const float *framed, const float *plane, long inputs, long height, long width, int add, float *to) {
    long stride = width + 2, size = (height + 2) * stride;
    for (long c = 0; c < inputs; c++) {
        v sum[9] = {};
        for (long y = 0; y < height; y++)
            for (long x = 0; x < width; x++) {
                v d = load(plane + (y * width + x) * L);
                const float *from = framed + c * size + y * stride + x;
                for (int i = 0; i < 3; i++)
                    for (int j = 0; j < 3; j++) sum[3 * i + j] += d * from[i * stride + j];
            }
        for (int t = 0; t < 9; t++) {
            float *tap = to + (9 * c + t) * L;
            store(tap, add ? load(tap) + sum[t] : 0 + sum[t]);
        }
    }
}

/* Each tap's plane, shifted to where the tap reads, added up: the adjoint of an image. */
static void image_from_taps(const float *taps, long inputs, long height, long width, float *framed, float *to) {
    long stride = width + 2, size = (height + 2) * stride, pixels = height * width;
    memset(framed, 0, inputs * size * sizeof(float));
    for (long t = 0; t < 9 * inputs; t++)
        for (long y = 0; y < height; y++) {
            float *line = framed + t / 9 * size + (y + t % 9 / 3) * stride + t % 3;
            for (long x = 0; x < width; x++) line[x] += taps[t * pixels + y * width + x];
        }
    for (long c = 0; c < inputs; c++)
        for (long y = 0; y < height; y++)
            memcpy(to + (c * height + y) * width, framed + c * size + (y + 1) * stride + 1, width * sizeof(float));
}

typedef struct {
    const float *a, *b;     /* adjoints of the block's tangent and value: of products, or of the linear layer's features */
    float *to_a, *to_b;     /* where those of this block's own products go; not for a first block */
    float *gamma, *beta;    /* [n, channels]: each image's part of their adjoints */
    float *weight;          /* [n][blocks][9 inputs][16], a first block's; NULL where it is not wanted */
    float *images;          /* [n, inputs, h, w], a first block's; NULL where it is not wanted */
} Adjoint;

/* The adjoints of one plane's z, and of its tangent where `dot` is given; frames and planes are scratch for both. */
static void plane_back(const Shape *k, const Flow *f, const Flow *dot, const float *stats, const Adjoint *t, long image, long block,
                       float *frames, float *az, float *bz) {
    long at = image * k->blocks + block, pixels = k->height * k->width, row = frame_row(k->width / 2), inside = (row + 1) * L;
    long size = frame_size(k->height / 2, k->width / 2);
    const float *z = f->z + at * pixels * L;
    Stats s = {load(stats + at * 2 * L), load(stats + at * 2 * L + L)};
    v gamma = load(f->gamma + block * L), beta = load(f->beta + block * L);
    memset(frames, 0, (dot ? 2 : 1) * size * sizeof(float));
    take_back(k, image, block, t->b, frames);
    if (dot) {
        take_back(k, image, block, t->a, frames + size);
        pull_back_pair(z, dot->z + at * pixels * L, s, gamma, load(dot->gamma + block * L), beta, frames + size + inside, frames + inside, row,
                       k->height, k->width, az, bz, t->gamma + at * L, t->beta + at * L);
    } else
        pull_back(z, s, gamma, beta, frames + inside, row, k->height, k->width, bz, t->gamma + at * L, t->beta + at * L);
}

/* Back through one block behind another, to the adjoints of its products. */
void block_back(const Shape *k, const Flow *f, const Flow *dot, const float *stats, const Adjoint *t) {
    long pixels = k->height * k->width, size = frame_size(k->height / 2, k->width / 2), channels = k->blocks * L;
#pragma omp parallel num_threads(k->threads)
    {
        float *frames = room(2 * size + 2 * pixels * L), *az = frames + 2 * size, *bz = az + pixels * L;
#pragma omp for collapse(2) schedule(static)
        for (long image = 0; image < k->images; image++)
            for (long block = 0; block < k->blocks; block++) {
                long products = image * tiles(k->height, k->width) * channels + block * L;
                plane_back(k, f, dot, stats, t, image, block, frames, az, bz);
                products_from_plane(bz, k->position_in, channels, k->height, k->width, t->to_b + products);
                if (dot) products_from_plane(az, k->position_in, channels, k->height, k->width, t->to_a + products);
            }
        free(frames);
    }
}

/* Back through a first block, to its weights and to the images (whose number of pixels is a multiple of 16). The tangent came through
 * `dot`'s weights from `f`'s images, or through `f`'s weights from `dot`'s images. */
void first_block_back(const Shape *k, const Flow *f, const Flow *dot, const float *stats, const Adjoint *t) {
    long pixels = k->height * k->width, size = frame_size(k->height / 2, k->width / 2), rows = 9 * k->inputs;
    long framed_size = k->inputs * (k->height + 2) * (k->width + 2), image_size = k->inputs * pixels;
    int moved = dot && dot->source != f->source;
#pragma omp parallel num_threads(k->threads)
    {
        float *frames = room(2 * size + 2 * pixels * L + rows * pixels + 2 * framed_size), *az = frames + 2 * size, *bz = az + pixels * L;
        float *taps = bz + pixels * L, *framed = taps + rows * pixels, *framed_dot = framed + framed_size;
#pragma omp for schedule(static)
        for (long image = 0; image < k->images; image++) {
            if (t->images) memset(taps, 0, rows * pixels * sizeof(float));
            if (t->weight) frame_image(f->source + image * image_size, k->inputs, k->height, k->width, framed);
            if (t->weight && moved) frame_image(dot->source + image * image_size, k->inputs, k->height, k->width, framed_dot);
            for (long block = 0; block < k->blocks; block++) {
                plane_back(k, f, dot, stats, t, image, block, frames, az, bz);
                float *weight = t->weight ? t->weight + (image * k->blocks + block) * rows * L : NULL;
                if (weight) weights_from_plane(framed, bz, k->inputs, k->height, k->width, 0, weight);
                if (weight && moved) weights_from_plane(framed_dot, az, k->inputs, k->height, k->width, 1, weight);
                for (long p = 0; t->images && p < pixels; p += L) {
                    taps_from_pixels(bz + p * L, f->weight + block * rows * L, k->inputs, pixels, taps + p);
                    if (dot) taps_from_pixels(az + p * L, dot->weight + block * rows * L, k->inputs, pixels, taps + p);
                }
            }
            if (t->images) image_from_taps(taps, k->inputs, k->height, k->width, framed, t->images + image * image_size);
        }
        free(frames);
    }
}
