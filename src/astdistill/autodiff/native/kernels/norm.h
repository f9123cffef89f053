/* Instance norm, ReLU and 2x2 average pooling of one plane, with tangents and adjoints. */

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
static void pull_back(const float *z, Stats s, v gamma, v beta, const float *b, long height, long width, float *bz, float *dgamma,
                      float *dbeta) {
    v slope = gamma * s.scale, offset = beta - s.mean * slope, sum = splat(0), normed = splat(0);
    for (long y = 0; y < height; y += 2)
        for (long x = 0; x < width; x += 2) {
            v up = 0.25f * load(b + (y / 2 * (width / 2) + x / 2) * L);
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

/* The same for the pair (output, tangent of the output), with adjoints (b, a). See docs/how-it-works.md for the formula. */
static void pull_back_pair(const float *z, const float *zdot, Stats s, v gamma, v gammadot, v beta, const float *a, const float *b, long height,
                           long width, float *az, float *bz, float *dgamma, float *dbeta) {
    float pixels = (float)(height * width);
    Means m = tangent_means(z, zdot, s, height * width);
    v slope = gamma * s.scale, offset = beta - s.mean * slope;
    v suma = splat(0), sumb = splat(0), ax = splat(0), bx = splat(0), ad = splat(0);
    for (long y = 0; y < height; y += 2)
        for (long x = 0; x < width; x += 2) {
            long pooled = (y / 2 * (width / 2) + x / 2) * L;
            v upa = 0.25f * load(a + pooled), upb = 0.25f * load(b + pooled);
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
