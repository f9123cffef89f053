/* The first convolution, direct, and its adjoints. */

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

/* One plane on its way through a block's weights. */
typedef struct { const float *plane, *weight; } Sent;

enum { TURNED = 4 }; /* registers of pixels at once, so that three taps' weights serve each of them */

INLINE void some_taps(const Sent *sent, int planes, long inputs, long apart, float *taps, int count) {
    v turned[2][TURNED][L];
    for (int s = 0; s < planes; s++)
        for (int q = 0; q < count; q++) {
            for (int p = 0; p < L; p++) turned[s][q][p] = load(sent[s].plane + (q * L + p) * L);
            transpose(turned[s][q]);
        }
    for (long t = 0; t < 9 * inputs; t += 3) {
        v sum[3][TURNED];
        for (int i = 0; i < 3; i++)
            for (int q = 0; q < count; q++) sum[i][q] = load(taps + (t + i) * apart + q * L);
        for (int s = 0; s < planes; s++)
            for (int l = 0; l < L; l++)
                for (int i = 0; i < 3; i++)
                    for (int q = 0; q < count; q++) sum[i][q] += turned[s][q][l] * sent[s].weight[(t + i) * L + l];
        for (int i = 0; i < 3; i++)
            for (int q = 0; q < count; q++) store(taps + (t + i) * apart + q * L, sum[i][q]);
    }
}

/* Add to each tap's plane [h w], `apart` from the next one, what the pixels of one plane, or of two, send through the block's weights. */
static void taps_from_planes(const Sent *sent, int planes, long inputs, long pixels, long apart, float *taps) {
    for (long p = 0, count; p < pixels; p += count * L) {
        Sent here[2];
        for (int s = 0; s < planes; s++) here[s] = (Sent){sent[s].plane + p * L, sent[s].weight};
        count = p + TURNED * L <= pixels ? TURNED : 1;
        if (count == TURNED)
            some_taps(here, planes, inputs, apart, taps + p, TURNED);
        else
            some_taps(here, planes, inputs, apart, taps + p, 1);
    }
}

/* The adjoint of the weights [9 inputs][L] of one plane. */
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
static void image_from_taps(const float *taps, long apart, long inputs, long height, long width, float *framed, float *to) {
    long stride = width + 2, size = (height + 2) * stride;
    memset(framed, 0, inputs * size * sizeof(float));
    for (long t = 0; t < 9 * inputs; t++)
        for (long y = 0; y < height; y++) {
            float *line = framed + t / 9 * size + (y + t % 9 / 3) * stride + t % 3;
            for (long x = 0; x < width; x++) line[x] += taps[t * apart + y * width + x];
        }
    for (long c = 0; c < inputs; c++)
        for (long y = 0; y < height; y++)
            memcpy(to + (c * height + y) * width, framed + c * size + (y + 1) * stride + 1, width * sizeof(float));
}
