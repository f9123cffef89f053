/* The kernel of a convolution [channels out][channels in][9] in the form that products read, and the adjoint of that. */

#include "shape.h"

#include "winograd.h"

/* G w G^T of L kernels, whose 36 positions are `position` apart. */
static void transformed(const v taps[9], long position, float *to) {
    v half[3][6];
    for (int j = 0; j < 3; j++) rows_filter((v[]){taps[j], taps[3 + j], taps[6 + j]}, half[j]);
    for (int i = 0; i < 6; i++) {
        v line[6];
        rows_filter((v[]){half[0][i], half[1][i], half[2][i]}, line);
        for (int j = 0; j < 6; j++) store(to + (6 * i + j) * position, line[j]);
    }
}

/* L rows of 9 L numbers, `apart`, become 9 L vectors across the rows; and the adjoint of that. */
INLINE void gather(const float *from, long apart, v to[9 * L]) {
    for (int t = 0; t < 9 * L; t += L) {
        for (int row = 0; row < L; row++) to[t + row] = load(from + row * apart + t);
        transpose(to + t);
    }
}

INLINE void scatter(v from[9 * L], long apart, float *to) {
    for (int t = 0; t < 9 * L; t += L) {
        transpose(from + t);
        for (int row = 0; row < L; row++) store(to + row * apart + t, from[t + row]);
    }
}

/* Both forms, [36][blocks out][channels in][L] and, where it is wanted, [36][blocks in][channels out][L]. */
void kernel_forward(const float *weight, long blocks, long threads, float *kernel, float *turned) {
    long channels = blocks * L, position = kernel_size(blocks);
#pragma omp parallel for num_threads(threads) collapse(2) schedule(static)
    for (long out = 0; out < channels; out += L)
        for (long in = 0; in < channels; in += L) {
            v taps[9 * L]; /* [in][9] */
            gather(weight + (out * channels + in) * 9, channels * 9, taps);
            for (int i = 0; i < L; i++) transformed(taps + 9 * i, position, kernel + (out * channels + (in + i) * L));
            if (!turned) continue;
            v across[9][L];
            for (int t = 0; t < 9; t++) {
                for (int i = 0; i < L; i++) across[t][i] = taps[9 * i + t];
                transpose(across[t]);
            }
            for (int o = 0; o < L; o++) {
                v here[9];
                for (int t = 0; t < 9; t++) here[t] = across[t][o];
                transformed(here, position, turned + (in * channels + (out + o) * L));
            }
        }
}

/* Add to the adjoint at position p V^T P of all groups. */
static void kernel_at(Layout y, long p, const float *factors, const float *products, float *to) {
    for (long group = 0; group < y.groups; group++) {
        Group g = group_at(y, group), next = group_at(y, group + 1 < y.groups ? group + 1 : group);
        long here = g.at + p * g.position, then = next.at + p * next.position, numbers = y.blocks * next.panel;
        outer(factors + here, products + here, g.rows, y.blocks, g.panel, to, ahead(factors + then, numbers), ahead(products + then, numbers));
    }
}

/* G^T u G of L kernels. */
static void taps_of(const float *from, long position, v taps[9]) {
    v half[6][3];
    for (int i = 0; i < 6; i++) {
        v line[6];
        for (int j = 0; j < 6; j++) line[j] = load(from + (6 * i + j) * position);
        rows_filter_adjoint(line, half[i]);
    }
    for (int j = 0; j < 3; j++) {
        v line[6], column[3];
        for (int i = 0; i < 6; i++) line[i] = half[i][j];
        rows_filter_adjoint(line, column);
        for (int i = 0; i < 3; i++) taps[3 * i + j] = column[i];
    }
}

/* The adjoint of a block's kernel, from values and, where they are given, tangents; `kernel` has room for its transformed form. */
void kernel_back(const Shape *k, const float *factors, const float *products, const float *factors_dot, const float *products_dot, float *kernel,
                 float *weight) {
    Layout y = layout(k->images, k->groups, k->blocks, k->height, k->width);
    long channels = k->blocks * L, position = kernel_size(k->blocks);
#pragma omp parallel num_threads(k->threads)
    {
#pragma omp for schedule(static)
        for (long p = 0; p < 36; p++) {
            memset(kernel + p * position, 0, position * sizeof(float));
            kernel_at(y, p, factors, products, kernel + p * position);
            if (factors_dot) kernel_at(y, p, factors_dot, products_dot, kernel + p * position);
        }
#pragma omp for collapse(2) schedule(static)
        for (long out = 0; out < channels; out += L)
            for (long in = 0; in < channels; in += L) {
                v taps[9 * L]; /* [in][9] */
                for (int i = 0; i < L; i++) taps_of(kernel + out * channels + (in + i) * L, position, taps + 9 * i);
                scatter(taps, channels * 9, weight + (out * channels + in) * 9);
            }
    }
}
