// Softmax with cross-entropy on the cpu device: losses, ranks and the gradient, row by row.
//
// Formula     softmax.py.
// Layout      logits, dlogits (N,K); labels (N,); scores (3,N): of each row its loss, and whether it
//             is right in the top 1 and in the top 5.
// Mapping     A row stays in the first cache for all passes, each of which treats whole vectors.
// Rounding    Sums are of partial sums by lane, multiply-adds fused where the processor can; so the
//             bits are not NumPy's. Nothing depends on how rows are shared out.
#include <numeric>

#include "native.h"

#pragma STDC FP_CONTRACT ON

// What exp needs to know of a type: digits after the leading one, terms of its series that count
// where |r| ≤ ln 2 / 2, and where its result is no longer a normal number.
template <typename T>
struct Exp;
template <>
struct Exp<float> {
    using Bits = uint32_t;
    static constexpr int DIGITS = 23, TERMS = 7;
    static constexpr float LEAST = -87;
};
template <>
struct Exp<double> {
    using Bits = uint64_t;
    static constexpr int DIGITS = 52, TERMS = 13;
    static constexpr double LEAST = -708;
};

// eˣ of every lane, x ≤ 0 or NaN: 2ⁿ·eʳ with x = n·ln 2 + r, and eʳ by its Taylor series.
template <typename T, int N>
static inline typename Lanes<T, N>::type exponential(typename Lanes<T, N>::type x) {
    using E = Exp<T>;
    using V = typename Lanes<T, N>::type;
    using B = typename Lanes<typename E::Bits, N>::type;
    constexpr T HIGH = 355.0 / 512, LOW = -2.121944400546905827679e-4;  // together ln 2
    // Added to a small number it leaves no digits behind the point: n is in the lowest bits.
    constexpr T ROUND = T(3) * (i64(1) << (E::DIGITS - 1));
    const V within = x < E::LEAST ? V{} + E::LEAST : x;
    const V rounded = within * T(1.44269504088896340736) + ROUND, n = rounded - ROUND;
    const V r = (within - n * HIGH) - n * LOW;
    V sum = V{} + 1;
    for (int i = E::TERMS; i > 0; i--) sum = sum * r * T(1.0 / i) + 1;
    const B scaled = (B)sum + ((B)rounded << E::DIGITS);
    return x < E::LEAST ? V{} : x == x ? (V)scaled : x;
}

template <typename T>
static T largest(const T* z, int k) {
    constexpr int N = COMPARED / sizeof(T);
    T lanes[N];
    for (T& each : lanes) each = -INFINITY;
    by_lanes<T>(k, [&](auto count, int i) {
        using V = typename Lanes<T, count>::type;
        const V here = load<V>(z + i), best = load<V>(lanes);
        store(lanes, here > best ? here : best);  // a NaN spoils the sum of exponentials
    });
    return *std::max_element(lanes, lanes + N);
}

// e[i] = exp(z[i] − most); returns their sum.
template <typename T>
static T exponentials(const T* z, T most, int k, T* e) {
    constexpr int N = COMPARED / sizeof(T);
    T lanes[N] = {};
    by_lanes<T>(k, [&](auto count, int i) {
        using V = typename Lanes<T, count>::type;
        const V value = exponential<T, count>(load<V>(z + i) - most);
        store(e + i, value);
        store(lanes, load<V>(lanes) + value);
    });
    T sum = 0;
    for (T each : lanes) sum += each;
    return sum;
}

// Items: rows. dlogits: or null. A label of K or more makes the loss NaN.
template <typename T>
EXPORT void softmax_rows(i64 start, i64 stop, const T* logits, const int* labels, T* dlogits,
                         double* scores, i64 rows, int k) {
    const T counted = std::count_if(labels, labels + rows, [](int label) { return label >= 0; });
    for (i64 row = start; row < stop; row++) {
        const T* z = logits + row * k;
        const int label = std::min(labels[row], k);
        T* e = dlogits ? dlogits + row * k : kept<T, 0>(k);
        double *loss = scores + row, *top1 = loss + rows, *top5 = top1 + rows;
        *loss = *top1 = *top5 = 0;
        if (label < 0) {
            for (int i = 0; dlogits && i < k; i++) e[i] = 0;
            continue;
        }
        const T most = largest(z, k), sum = exponentials(z, most, k, e);
        const T mine = label < k ? z[label] : T(NAN);
        *loss = std::log(sum) - (mine - most);
        int ahead = 0;
        for (int i = 0; i < label; i++) ahead += z[i] >= mine;
        for (int i = label + 1; i < k; i++) ahead += z[i] > mine;
        const bool number = *loss == *loss;  // comparisons with a NaN would make it the first
        *top1 = number && ahead < 1, *top5 = number && ahead < 5;
        if (!dlogits) continue;
        const T whole = sum * counted, own = label < k ? (e[label] / sum - 1) / counted : 0;
        for (int i = 0; i < k; i++) e[i] /= whole;
        if (label < k) e[label] = own;
    }
}

// Items: the three scores. totals (3,): each row's are added to it, in order.
EXPORT void add_scores(i64 start, i64 stop, const double* scores, double* totals, i64 rows) {
    for (i64 i = start; i < stop; i++)
        totals[i] += std::accumulate(scores + i * rows, scores + (i + 1) * rows, 0.0);
}
INSTANTIATE(softmax_rows<float>, softmax_rows<double>);
