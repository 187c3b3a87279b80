// The cpu device's ops that are bound by memory, one number at a time.
//
// Arithmetic  Every operation is rounded by itself and in the order of the NumPy form, so that the
//             bits are the same. Nothing here depends on where a range of items begins or ends.
#include "native.h"

// dy ← dy · [y > 0]; items: numbers. A product, so that a NaN stays.
template <typename T>
EXPORT void relu_backward(i64 start, i64 stop, const T* __restrict__ y, T* __restrict__ dy) {
    for (i64 i = start; i < stop; i++) dy[i] *= T(y[i] > 0);
}
INSTANTIATE(relu_backward<float>, relu_backward<double>);

// --- SGD --------------------------------------------------------------------------------------

// The parameters, one after another; see Segments in ops/sgd.py.
struct Solver {
    double lr, momentum, decay;
    int segments;
};

// To the nearest bfloat16, ties to even; any NaN to the one with a single bit of fraction.
static inline bf16 narrowed(float x) {
    u32 bits;
    memcpy(&bits, &x, sizeof(bits));
    const u32 rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    return {u16(x == x ? rounded : (bits >> 16 & 0x8000) | 0x7fc0)};
}

// g: a row of partial sums of the gradient for each slice, `apart` numbers from one to the next.
template <typename T>
static void update(i64 count, T* __restrict__ w, const T* __restrict__ g, i64 apart, int slices,
                   T* __restrict__ v, T rate, T momentum, T decay, bf16* __restrict__ copy) {
    constexpr int BLOCK = 1024;  // of sums, in the level-1 cache
    T sums[BLOCK];
    for (i64 from = 0; from < count; from += BLOCK) {
        const i64 size = std::min<i64>(BLOCK, count - from);
        const T* __restrict__ gradient = g + from;
        if (slices > 1) {
            for (i64 i = 0; i < size; i++) sums[i] = gradient[i];
            for (int s = 1; s < slices; s++)
                for (i64 i = 0; i < size; i++) sums[i] += gradient[s * apart + i];
            gradient = sums;
        }
        T *__restrict__ weights = w + from, *__restrict__ speeds = v + from;
        for (i64 i = 0; i < size; i++) {
            const T step = (weights[i] * decay + gradient[i]) * rate;
            speeds[i] = speeds[i] * momentum + step;
            weights[i] -= speeds[i];
        }
        if (copy)
            for (i64 i = 0; i < size; i++) copy[from + i] = narrowed((float)weights[i]);
    }
}

// Items: numbers of w. places: where each segment's gradient begins in g.
template <typename T>
EXPORT void sgd_update(i64 start, i64 stop, T* w, const T* g, T* v, bf16* copy, const Solver* solver,
                       const i64* starts, const i64* places, const int* slices, const double* rates,
                       const double* decays) {
    for (int s = 0; s < solver->segments; s++) {
        const i64 first = std::max(start, starts[s]), last = std::min(stop, starts[s + 1]);
        if (first >= last) continue;
        const T rate = solver->lr * rates[s], decay = solver->decay * decays[s];
        update<T>(last - first, w + first, g + places[s] + first - starts[s],
                  starts[s + 1] - starts[s], slices[s], v + first, rate, solver->momentum, decay,
                  copy ? copy + first : nullptr);
    }
}
INSTANTIATE(sgd_update<float>, sgd_update<double>);
