// Sums in registers: what the matrix products of the cpu device share.
//
// Tile      Sums of M rows × N vectors stay in registers while products are added: N vectors,
//           read as they lie, times one number for each row, broadcast. With 32 registers of 16
//           floats 9 × 3 vectors are sums, 3 hold the vectors: 27 multiply-adds for 12 loads. With 16
//           registers 4 × 3, 6 × 2, or 3 × 4, where the numbers are held and the vectors pass.
// Rounding  Multiply-adds are fused where the processor can, as STDC FP_CONTRACT allows.
#pragma once

#include "native.h"

#pragma STDC FP_CONTRACT ON
#if defined(__AVX512F__)
constexpr int BYTES = 64, REGISTERS = 32;
#elif defined(__AVX__)
constexpr int BYTES = 32, REGISTERS = 16;
#elif defined(__aarch64__)
constexpr int BYTES = 16, REGISTERS = 32;
#else
constexpr int BYTES = 16, REGISTERS = 16;
#endif
constexpr int MOST = 3;            // vectors of a tile; conv.h has tiles of 4, too
constexpr int MR = REGISTERS / 4;  // rows of a tile of so many
// Rows of a tile of so many vectors at most, and at least. With 32 registers all numbers above 20 are
// tiles of 9, 8 and 7.
constexpr i64 high_of(i64 vectors) { return std::min<i64>(9, (REGISTERS - 4) / vectors); }
constexpr i64 low_of(i64 vectors) { return std::min<i64>(7, high_of(vectors + 1)); }

template <typename T>
constexpr int W = BYTES / sizeof(T);
template <typename T>
constexpr int HALF = W<T> / 2;
// Vectors that so many numbers take; the last may be partly empty.
template <typename T>
constexpr i64 vectors_of(i64 lanes) { return (lanes + W<T> - 1) / W<T>; }
template <typename T, int LANES = W<T>>
using Vec = typename Lanes<T, LANES>::type;
struct Pair {  // of floats
    u64 bits;
};

// Things one after another, at least one, cut into pieces of up to `most`, as even as can be.
struct Cut {
    i64 count, least, more;  // `more` pieces are larger by one than `least`
    Cut(i64 size, i64 most) : count((size + most - 1) / most), least(size / count),
                              more(size % count) {}
    i64 first(i64 piece) const { return piece * least + std::min(piece, more); }
    i64 size(i64 piece) const { return least + (piece < more); }
};

// Numbers side by side, cut into blocks of up to `most` vectors, as even as can be.
template <typename T>
struct Blocks {
    i64 size, lanes;  // lanes: numbers computed, of which `size` count
    Cut vectors;
    i64 count = vectors.count;
    explicit Blocks(i64 size, i64 most = MOST) : size(size), lanes(vectors_of<T>(size) * W<T>),
                                                 vectors(vectors_of<T>(size), most) {}
    i64 first(i64 block) const { return vectors.first(block) * W<T>; }
    i64 wide(i64 block) const { return vectors.size(block) * W<T>; }
    i64 width(i64 block) const { return std::min(first(block + 1), size) - first(block); }
};

// Calls f with a constant of the block's lanes.
template <typename T, int MAX = MOST, int LANES = W<T>, typename F>
void by_width(i64 wide, F f) {
    if constexpr (LANES < MAX * W<T>)
        if (wide > LANES) return by_width<T, MAX, LANES + W<T>>(wide, f);
    f(std::integral_constant<int, LANES>());
}

// Calls f with a constant of the rows that a tile of so many vectors is computed with: no less than
// a tile of one vector more has, or 7.
template <i64 VECTORS, i64 M = high_of(VECTORS), typename F>
void by_height(i64 high, F f) {
    if constexpr (M > low_of(VECTORS))
        if (high < M) return by_height<VECTORS, M - 1>(high, f);
    f(std::integral_constant<int, M>());
}

// Has the compiler hold a vector in a register. Left to itself g++ reads it anew for every row
// when registers are just enough, and loads, not multiply-adds, are then the bound.
template <typename V>
inline void in_register(V& vector) {
#if defined(__x86_64__)
    asm("" : "+v"(vector));
#elif defined(__aarch64__)
    asm("" : "+w"(vector));
#endif
}

// A number in all lanes, or two, that lie side by side, in all pairs of lanes.
template <typename T>
inline Vec<T> everywhere(T number) { return number - Vec<T>{}; }
template <typename T>
inline Vec<T> everywhere(Pair pair) { return (Vec<T>)(pair.bits - Vec<u64>{}); }

template <typename T, int M, int LANES>
struct Tile {
    static constexpr int N = LANES / W<T>;
    Vec<T> sums[M][N] = {};

    // Adds number(m), or a pair of them, times the vectors to row m. The fewer of both stay in
    // registers.
    template <typename Number>
    inline __attribute__((always_inline)) void add(const T* vectors, Number number) {
        if constexpr (N > M) {
            Vec<T> a[M];
            for (int m = 0; m < M; m++) {
                a[m] = everywhere<T>(number(m));
                in_register(a[m]);
            }
            for (int v = 0; v < N; v++) {
                Vec<T> b = load<Vec<T>>(vectors + v * W<T>);
                in_register(b);
                for (int m = 0; m < M; m++) sums[m][v] += a[m] * b;
            }
            return;
        }
        Vec<T> b[N];
        for (int v = 0; v < N; v++) {
            b[v] = load<Vec<T>>(vectors + v * W<T>);
            in_register(b[v]);
        }
        for (int m = 0; m < M; m++) {
            Vec<T> a = everywhere<T>(number(m));
            for (int v = 0; v < N; v++) sums[m][v] += a * b[v];
        }
    }
    void read(int m, const T* line) {
        for (int v = 0; v < N; v++) sums[m][v] = load<Vec<T>>(line + v * W<T>);
    }
    void write(int m, T* line) const {
        for (int v = 0; v < N; v++) store(line + v * W<T>, sums[m][v]);
    }
};
