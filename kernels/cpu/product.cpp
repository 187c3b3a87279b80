// Fully connected layers on the cpu device: products of tall weights with a few images.
//
// Formula   y[n,k] = b[k] + Σ_d x[n,d] · w[k,d], then max(·, 0) if asked for;
//           dx[n,d] = Σ_k dy[n,k] · w[k,d], 0 where relu_y, if given, is not positive.
// Layout    x, dx (N,D); y, dy (N,K); w (K,D).
// Why       A batch is a few dozen images, the weights are hundreds of megabytes: what counts is
//           that each is read once, as it lies. A library's product first copies them into an
//           order of its own.
// Tile      forward: sums of ROWS images × COLUMNS features, vectors along d, added up at last.
//           backward: ROWS images × MOST vectors of dx, DEEP features at a time, so that what
//           is read of w stays in the first cache while all images pass.
// Rounding  Multiply-adds are fused where the processor can.
#include <algorithm>
#include <vector>

#include "native.h"

#pragma STDC FP_CONTRACT ON

#if defined(__AVX512F__)
constexpr int BYTES = 64, ROWS = 4, COLUMNS = 6;
#elif defined(__AVX__)
constexpr int BYTES = 32, ROWS = 3, COLUMNS = 4;
#else
constexpr int BYTES = 16, ROWS = 3, COLUMNS = 4;
#endif
constexpr int WIDE = 8, MOST = ROWS * COLUMNS > 12 ? 3 : 1, DEEP = 32;

template <typename T>
constexpr int W = BYTES / sizeof(T);
template <typename T>
using Vec = typename Lanes<T, W<T>>::type;

// Adds the products of numbers first … last − 1 of R images and C features to their sums, which
// lie C vectors apart. What is no whole vector goes to the first lane.
template <typename T, int R, int C>
inline void dot(const T* x, const T* w, i64 d, i64 first, i64 last, T* to, i64 apart) {
    Vec<T> sums[R][C];
    for (int r = 0; r < R; r++)
        for (int c = 0; c < C; c++) sums[r][c] = load<Vec<T>>(to + (r * apart + c) * W<T>);
    i64 i = first;
    for (; i + W<T> <= last; i += W<T>) {
        Vec<T> a[R];
        for (int r = 0; r < R; r++) a[r] = load<Vec<T>>(x + r * d + i);
        for (int c = 0; c < C; c++) {
            Vec<T> b = load<Vec<T>>(w + c * d + i);
            for (int r = 0; r < R; r++) sums[r][c] += a[r] * b;
        }
    }
    for (; i < last; i++)
        for (int r = 0; r < R; r++)
            for (int c = 0; c < C; c++) sums[r][c][0] += x[r * d + i] * w[c * d + i];
    for (int r = 0; r < R; r++)
        for (int c = 0; c < C; c++) store(to + (r * apart + c) * W<T>, sums[r][c]);
}

// Items: features by ITEM. w is read COLUMNS × LONG at a time, which stays in the first cache
// while all images pass.
constexpr int ITEM = 24, LONG = 1024;
static_assert(ITEM % COLUMNS == 0, "an item is some tiles");
template <typename T>
EXPORT void product_forward(i64 start, i64 stop, const T* x, const T* w, const T* b, T* y,
                            i64 images, i64 features, i64 d, bool relu) {
    thread_local std::vector<T> held;
    held.resize(images * COLUMNS * W<T>);
    i64 end = stop * ITEM < features ? stop * ITEM : features;
    for (i64 k = start * ITEM; k < end; k += COLUMNS) {
        i64 columns = end - k < COLUMNS ? end - k : COLUMNS;
        std::fill(held.begin(), held.end(), T(0));
        for (i64 first = 0; first < d; first += LONG) {
            i64 last = first + LONG < d ? first + LONG : d, n = 0;
            const T* from = w + k * d;
            if (columns == COLUMNS)
                for (; n + ROWS <= images; n += ROWS)
                    dot<T, ROWS, COLUMNS>(x + n * d, from, d, first, last,
                                          &held[n * COLUMNS * W<T>], COLUMNS);
            for (; n < images; n++)
                for (i64 c = 0; c < columns; c++)
                    dot<T, 1, 1>(x + n * d, from + c * d, d, first, last,
                                 &held[(n * COLUMNS + c) * W<T>], 1);
        }
        for (i64 n = 0; n < images; n++)
            for (i64 c = 0; c < columns; c++) {
                T sum = b ? b[k + c] : T(0);
                for (int v = 0; v < W<T>; v++) sum += held[(n * COLUMNS + c) * W<T> + v];
                y[n * features + k + c] = relu && sum < 0 ? T(0) : sum;  // NaN stays
            }
    }
}
INSTANTIATE(product_forward<float>, product_forward<double>);

// dx[n, from the pointer on] += Σ over `deep` features; R images, V vectors or single numbers.
template <typename T, typename V, int R, int C>
inline void add_rows(const T* dy, const T* w, T* dx, i64 deep, i64 features, i64 d) {
    constexpr int N = sizeof(V) / sizeof(T);
    V sums[R][C];
    for (int r = 0; r < R; r++)
        for (int c = 0; c < C; c++) sums[r][c] = load<V>(dx + r * d + c * N);
    for (i64 k = 0; k < deep; k++, w += d) {
        V b[C];
        for (int c = 0; c < C; c++) b[c] = load<V>(w + c * N);
        for (int r = 0; r < R; r++) {
            T a = dy[r * features + k];
            for (int c = 0; c < C; c++) sums[r][c] += a * b[c];
        }
    }
    for (int r = 0; r < R; r++)
        for (int c = 0; c < C; c++) store(dx + r * d + c * N, sums[r][c]);
}

template <typename T, typename V, int C>
inline void add_images(const T* dy, const T* w, T* dx, i64 images, i64 deep, i64 features,
                       i64 d) {
    i64 n = 0;
    for (; n + WIDE <= images; n += WIDE)
        add_rows<T, V, WIDE, C>(dy + n * features, w, dx + n * d, deep, features, d);
    for (; n < images; n++)
        add_rows<T, V, 1, C>(dy + n * features, w, dx + n * d, deep, features, d);
}

// Items: numbers of d by STRETCH, the width in which rows of w are read.
constexpr int STRETCH = 768;
template <typename T>
EXPORT void product_backward(i64 start, i64 stop, const T* dy, const T* w, const T* relu_y, T* dx,
                             i64 images, i64 features, i64 d) {
    constexpr int N = MOST * W<T>;
    i64 first = start * STRETCH, end = stop * STRETCH < d ? stop * STRETCH : d;
    for (i64 from = first; from < end; from += STRETCH) {
        i64 to = from + STRETCH < end ? from + STRETCH : end;
        for (i64 n = 0; n < images; n++) memset(dx + n * d + from, 0, (to - from) * sizeof(T));
        for (i64 k = 0; k < features; k += DEEP) {
            i64 deep = features - k < DEEP ? features - k : DEEP, i = from;
            for (; i + N <= to; i += N)
                add_images<T, Vec<T>, MOST>(dy + k, w + k * d + i, dx + i, images, deep, features,
                                            d);
            for (; i < to; i++)
                add_images<T, T, 1>(dy + k, w + k * d + i, dx + i, images, deep, features, d);
        }
        if (relu_y)
            for (i64 n = 0; n < images; n++)
                for (i64 i = n * d + from; i < n * d + to; i++)
                    dx[i] = relu_y[i] > 0 ? dx[i] : T(0);
    }
}
INSTANTIATE(product_backward<float>, product_backward<double>);
