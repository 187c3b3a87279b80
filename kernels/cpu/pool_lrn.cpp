// Max pooling, LRN across channels, and both as one op, on the cpu device.
//
// Formula     pool.py, lrn.py, pool_lrn.py.
// Layout      NHWC: x, dx (N,H,W,C); u, argmax, y, dy (N,P,Q,C); argmax the place in the window.
// Mapping     Loops run along channels, which the compiler makes vectors of; what is between two
//             loops stays in a level-1 cache. Backward, each pixel gathers from its windows, and
//             an image's du stays in the level-2 cache.
// Arithmetic  In the order of the NumPy forms, each operation rounded: the same bits. β is 0.75.
#include "native.h"

struct Pooling {
    int h, w, c, p, q;
    int window[2], stride[2], pad[2];
};

struct Normalising {
    double share, slope, k;  // α/size, 2αβ/size
    int half;                // of the window of channels, without its middle
};

// What a thread keeps memory for.
enum Use { WINDOWS, ROW, SCALE, SUMS, GRADIENT };

// --- pooling ----------------------------------------------------------------------------------

// Integers as wide as T, for its lanes.
template <typename T>
using Places = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;

// Maxima and their places in the window (p, q) of an image.
template <typename T>
static void largest(const T* image, const Pooling& shape, int p, int q, T* best, u8* argmax) {
    const int c = shape.c, across = shape.window[1];
    const int top = p * shape.stride[0] - shape.pad[0], left = q * shape.stride[1] - shape.pad[1];
    const int first_row = std::max(top, 0), end_row = std::min(top + shape.window[0], shape.h);
    const int first = std::max(left, 0), end = std::min(left + across, shape.w);
    by_lanes<T>(c, [&](auto lanes, int i) {
        using V = typename Lanes<T, lanes>::type;
        using P = typename Lanes<Places<T>, lanes>::type;
        V value = V{} - INFINITY;
        P place = {};
        for (int row = first_row; row < end_row; row++) {
            const T* from = image + ((i64)row * shape.w + first) * c + i;
            P number = P{} + ((row - top) * across + first - left);
            for (int column = first; column < end; column++, from += c, number += 1) {
                const V here = load<V>(from);
                const P better = here > value, nan = here != here;
                place = better ? number : place;
                value = (better | nan) ? here : value;  // a NaN stays
            }
        }
        store(best + i, value);
        for (int e = 0; e < lanes; e++) argmax[i + e] = (u8)place[e];
    });
}

// Items: rows of windows, N·P.
template <typename T>
EXPORT void pool_forward(i64 start, i64 stop, const T* x, T* y, u8* argmax,
                         const Pooling* shape) {
    for (i64 row = start; row < stop; row++) {
        const T* image = x + row / shape->p * shape->h * shape->w * shape->c;
        for (int q = 0; q < shape->q; q++) {
            const i64 at = (row * shape->q + q) * shape->c;
            largest(image, *shape, row % shape->p, q, y + at, argmax + at);
        }
    }
}

// A window that a pixel lies in: its place in it, and where its numbers begin.
struct Window {
    int place;
    i64 at;
};

// The gradient of an image's pooling.
template <typename T>
struct PoolGradient {
    explicit PoolGradient(const Pooling& shape)
        : shape(shape), windows(kept<Window, WINDOWS>(shape.window[0] * shape.window[1])) {}

    // Windows along an axis that a pixel lies in: first .. last.
    int first(int axis, int pixel) const {
        const int beyond = pixel + shape.pad[axis] - shape.window[axis];
        return std::max(beyond + shape.stride[axis], 0) / shape.stride[axis];
    }
    int last(int axis, int pixel) const {
        const int count = axis ? shape.q : shape.p;
        return std::min((pixel + shape.pad[axis]) / shape.stride[axis], count - 1);
    }

    // The windows that a pixel lies in; returns how many. Its place in a window rises as the
    // window's number falls: so they are in the order of places.
    int find(int row, int column) {
        int count = 0;
        for (int p = last(0, row); p >= first(0, row); p--)
            for (int q = last(1, column); q >= first(1, column); q--) {
                const int r = row - p * shape.stride[0] + shape.pad[0];
                const int s = column - q * shape.stride[1] + shape.pad[1];
                windows[count++] = {r * shape.window[1] + s, ((i64)p * shape.q + q) * shape.c};
            }
        return count;
    }

    void operator()(const T* dy, const u8* argmax, T* dx) {
        for (int row = 0; row < shape.h; row++)
            for (int column = 0; column < shape.w; column++, dx += shape.c) {
                const int count = find(row, column);
                by_lanes<T>(shape.c, [&](auto lanes, int i) {
                    using V = typename Lanes<T, lanes>::type;
                    using P = typename Lanes<Places<T>, lanes>::type;
                    V sum = {};
                    for (int k = 0; k < count; k++) {
                        const i64 at = windows[k].at + i;
                        const P here = widened<P>(argmax + at) == P{} + windows[k].place;
                        sum += here ? load<V>(dy + at) : V{};
                    }
                    store(dx + i, sum);
                });
            }
    }

    const Pooling& shape;
    Window* windows;
};

// Items: images.
template <typename T>
EXPORT void pool_backward(i64 start, i64 stop, const T* dy, const u8* argmax, T* dx,
                          const Pooling* shape) {
    const i64 pixels = (i64)shape->h * shape->w * shape->c;
    const i64 windows = (i64)shape->p * shape->q * shape->c;
    PoolGradient<T> gradient(*shape);
    for (i64 n = start; n < stop; n++)
        gradient(dy + n * windows, argmax + n * windows, dx + n * pixels);
}

// --- LRN --------------------------------------------------------------------------------------

// A row of channels with what the window reads beyond both ends: −0, which changes no sum.
template <typename T>
struct Padded {
    Padded(int c, int half) : row(kept<T, ROW>(c + 2 * half) + half) {
        for (int i = 1; i <= half; i++) row[-i] = row[c - 1 + i] = T(-0.0);
    }
    T* row;
};

// sums[i] = Σ values[j] over the window around i, its middle first, then outwards.
template <typename T>
static void window_sum(const T* __restrict__ values, int half, int c, T* __restrict__ sums) {
    if (half == 2) {
        for (int i = 0; i < c; i++)
            sums[i] = values[i] + values[i - 1] + values[i + 1] + values[i - 2] + values[i + 2];
        return;
    }
    for (int i = 0; i < c; i++) sums[i] = values[i];
    for (int shift = 1; shift <= half; shift++)
        for (int i = 0; i < c; i++) sums[i] = sums[i] + values[i - shift] + values[i + shift];
}

// s^−0.75.
template <typename T>
static inline T power(T s) {
    const T r = 1 / std::sqrt(s);
    return r * std::sqrt(r);
}

template <typename T>
static void lrn_scale(const T* __restrict__ x, const Normalising& how, int c, T* __restrict__ row,
                      T* __restrict__ scale) {
    const T share = how.share, k = how.k;
    for (int i = 0; i < c; i++) row[i] = x[i] * x[i];
    window_sum(row, how.half, c, scale);
    for (int i = 0; i < c; i++) scale[i] = scale[i] * share + k;
}

template <typename T>
static void lrn_output(const T* __restrict__ x, const T* __restrict__ scale, int c,
                       T* __restrict__ y) {
    for (int i = 0; i < c; i++) y[i] = power(scale[i]) * x[i];
}

// Items: rows of channels.
template <typename T>
EXPORT void lrn_forward(i64 start, i64 stop, const T* x, T* y, T* scale, const Normalising* how,
                        int c) {
    Padded<T> squares(c, how->half);
    for (i64 at = start * c; at < stop * c; at += c) {
        lrn_scale(x + at, *how, c, squares.row, scale + at);
        lrn_output(x + at, scale + at, c, y + at);
    }
}

// Items: rows of channels.
template <typename T>
EXPORT void lrn_backward(i64 start, i64 stop, const T* x, const T* y, const T* scale, const T* dy,
                         T* dx, const Normalising* how, int c) {
    Padded<T> ratios(c, how->half);
    const T slope = how->slope;
    T *__restrict__ ratio = ratios.row, *__restrict__ sum = kept<T, SUMS>(c);
    for (i64 at = start * c; at < stop * c; at += c) {
        const T *__restrict__ xs = x + at, *__restrict__ ys = y + at, *__restrict__ s = scale + at;
        const T* __restrict__ d = dy + at;
        T* __restrict__ out = dx + at;
        for (int i = 0; i < c; i++) ratio[i] = d[i] * ys[i] / s[i];
        window_sum(ratio, how->half, c, sum);
        for (int i = 0; i < c; i++) out[i] = power(s[i]) * d[i] - sum[i] * xs[i] * slope;
    }
}

// --- both -------------------------------------------------------------------------------------

// Items: rows of windows, N·P.
template <typename T>
EXPORT void pool_lrn_forward(i64 start, i64 stop, const T* x, T* u, u8* argmax, T* y,
                             const Pooling* shape, const Normalising* how) {
    const int c = shape->c;
    T* scale = kept<T, SCALE>(c);
    Padded<T> squares(c, how->half);
    for (i64 row = start; row < stop; row++) {
        const T* image = x + row / shape->p * shape->h * shape->w * c;
        for (int q = 0; q < shape->q; q++) {
            const i64 at = (row * shape->q + q) * c;
            largest(image, *shape, row % shape->p, q, u + at, argmax + at);
            lrn_scale(u + at, *how, c, squares.row, scale);
            lrn_output(u + at, scale, c, y + at);
        }
    }
}

// du of one row of channels: LRN's gradient, and 0 where the ReLU gave no u.
template <typename T>
static void relu_lrn_gradient(const T* __restrict__ u, const T* __restrict__ dy, int c,
                              const Normalising& how, T* __restrict__ row, T* __restrict__ scale,
                              T* __restrict__ sum, T* __restrict__ du) {
    const T slope = how.slope;
    lrn_scale(u, how, c, row, scale);
    for (int i = 0; i < c; i++) {
        du[i] = power(scale[i]) * dy[i];
        row[i] = du[i] * u[i] / scale[i];
    }
    window_sum(row, how.half, c, sum);
    for (int i = 0; i < c; i++) du[i] = u[i] > 0 ? du[i] - sum[i] * u[i] * slope : T(0);
}

// Items: images.
template <typename T>
EXPORT void pool_lrn_backward(i64 start, i64 stop, const T* dy, const T* u, const u8* argmax, T* dx,
                              const Pooling* shape, const Normalising* how) {
    const int c = shape->c;
    const i64 pixels = (i64)shape->h * shape->w * c, windows = (i64)shape->p * shape->q * c;
    T *scale = kept<T, SCALE>(c), *sum = kept<T, SUMS>(c), *du = kept<T, GRADIENT>(windows);
    Padded<T> row(c, how->half);
    PoolGradient<T> pooling(*shape);
    for (i64 n = start; n < stop; n++) {
        const T *maxima = u + n * windows, *gradient = dy + n * windows;
        for (i64 at = 0; at < windows; at += c)
            relu_lrn_gradient(maxima + at, gradient + at, c, *how, row.row, scale, sum, du + at);
        pooling(du, argmax + n * windows, dx + n * pixels);
    }
}

INSTANTIATE(pool_forward<float>, pool_forward<double>);
INSTANTIATE(pool_backward<float>, pool_backward<double>);
INSTANTIATE(lrn_forward<float>, lrn_forward<double>);
INSTANTIATE(lrn_backward<float>, lrn_backward<double>);
INSTANTIATE(pool_lrn_forward<float>, pool_lrn_forward<double>);
INSTANTIATE(pool_lrn_backward<float>, pool_lrn_backward<double>);
