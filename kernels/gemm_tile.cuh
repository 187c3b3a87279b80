// A tile of a matrix product C[M×N] = A[M×K] · B[K×N], computed by one block of 256 threads.
//
//                    B, BK × BN in shared memory
//                   ┌───────────────────────────┐       Every BK of K: each thread reads its
//                   └───────────────────────────┘       share of the next A and B tile into
//         ┌───┐     ┌────────────┬──────────────┐       registers, multiplies the tiles that
//         │   │     │  a a a a   │   a a a a    │       lie in shared memory, then writes
//      A, │   │     │  a a a a   │   a a a a    │       its share to the other of two
//      BK │   │     ├────────────┼──────────────┤       buffers: one barrier a step.
//       × │   │     │  a a a a   │   a a a a    │
//      BM │   │     │  a a a a   │   a a a a    │       a: the sums of one thread, TM × TN,
//         └───┘     └────────────┴──────────────┘       in patches of 16 bytes a row that
//    (held k-major)        C, BM × BN                   lie far apart.
//
// Neighbouring lanes own neighbouring patches, so that a warp (4 × 8 threads) reads 64
// bytes in a row from A and 128 from B: vector reads, free of bank conflicts. Rows of shared
// memory are padded by 16 bytes: then AlongK's transposed writes meet no conflicts either.
//
// What A and B are, a matrix or the patches of images, a view says: it names the address of
// VEC numbers that lie side by side, or null for zeros. Lines are rows of A (M) or columns of
// B (N). If the numbers lie along K the view goes into AlongK, if along the lines into AcrossK:
//
//     AlongK:   View(line, gap, k, by, ...)    at(i): numbers k, k+1, … of line + i·gap
//     AcrossK:  View(line, k, by, ...)         at():  number k of line, line+1, …
//               advance(): k += by
#pragma once

#include "common.cuh"

constexpr int GEMM_THREADS = 256;
constexpr int BK = 8;

template <typename T>
constexpr int PART = 16 / sizeof(T);  // numbers in 16 bytes

template <int VEC, typename T>
__device__ __forceinline__ Vec<T, VEC> load_or_zeros(const T* p) {
    Vec<T, VEC> value = {};
    if (p) value = load<VEC>(p);
    return value;
}

// A thread's share of an operand that lies along K: VEC numbers of each of LINES lines, GAP
// apart, written to shared memory transposed.
template <typename T, int WIDTH, int VEC, template <typename, int> class View>
struct AlongK {
    static constexpr int IN_A_LINE = BK / VEC, GAP = GEMM_THREADS / IN_A_LINE;
    static constexpr int LINES = ceil_div(WIDTH, GAP);
    View<T, LINES> view;
    Vec<T, VEC> held[LINES];

    // Starts at `line` of M or N, and at `k`; `arguments` are the view's own.
    template <typename... Arguments>
    __device__ __forceinline__ AlongK(int line, int k, const Arguments&... arguments)
        : view(line + own_line(), GAP, k + own_k(), BK, arguments...) {}

    static __device__ __forceinline__ int own_line() { return threadIdx.x / IN_A_LINE; }
    static __device__ __forceinline__ int own_k() { return threadIdx.x % IN_A_LINE * VEC; }
    // Whether a tile has the thread's line i: one narrower than GAP leaves threads idle.
    static __device__ __forceinline__ bool within(int i) {
        return WIDTH % GAP == 0 || own_line() + i * GAP < WIDTH;
    }

    __device__ __forceinline__ void fetch() {
#pragma unroll
        for (int i = 0; i < LINES; i++)
            held[i] = load_or_zeros<VEC>(within(i) ? view.at(i) : nullptr);
        view.advance();
    }

    template <int PITCH>
    __device__ __forceinline__ void put(T (&tile)[BK][PITCH]) const {
#pragma unroll
        for (int i = 0; i < LINES; i++)
            if (within(i))
#pragma unroll
                for (int v = 0; v < VEC; v++)
                    tile[own_k() + v][own_line() + i * GAP] = held[i].at[v];
    }
};

// A thread's share of an operand that lies along its lines: VEC of them at each of PASSES
// places of K, STEP apart.
template <typename T, int WIDTH, int VEC, template <typename> class View>
struct AcrossK {
    static constexpr int IN_A_ROW = WIDTH / VEC;
    static constexpr int ROWS = GEMM_THREADS / IN_A_ROW, STEP = ROWS < BK ? ROWS : BK;
    static constexpr int PASSES = BK / STEP;
    View<T> view;
    Vec<T, VEC> held[PASSES];

    template <typename... Arguments>
    __device__ __forceinline__ AcrossK(int line, int k, const Arguments&... arguments)
        : view(line + own_line(), k + own_k(), STEP, arguments...) {}

    static __device__ __forceinline__ int own_line() { return threadIdx.x % IN_A_ROW * VEC; }
    static __device__ __forceinline__ int own_k() { return threadIdx.x / IN_A_ROW; }
    static __device__ __forceinline__ bool within() { return ROWS <= BK || own_k() < BK; }

    __device__ __forceinline__ void fetch() {
#pragma unroll
        for (int i = 0; i < PASSES; i++) {
            held[i] = load_or_zeros<VEC>(within() ? view.at() : nullptr);
            view.advance();
        }
    }

    template <int PITCH>
    __device__ __forceinline__ void put(T (&tile)[BK][PITCH]) const {
        if (within())
#pragma unroll
            for (int i = 0; i < PASSES; i++)
                store<VEC>(&tile[own_k() + i * STEP][own_line()], held[i]);
    }
};

// The sums of one thread, and where they belong.
template <typename T, int BM, int BN>
struct Tile {
    static constexpr int V = PART<T>;
    static constexpr int TN = BN == 128 ? 8 : 4, TM = BM * BN / (GEMM_THREADS * TN);
    static constexpr int WARPS_N = BN / TN / 8;  // warps side by side, 4 × 8 threads each
    static_assert(TM % V == 0 && TN % V == 0 && BM % (4 * TM) == 0 && BN % (8 * TN) == 0, "");

    accumulator<T> sum[TM][TN] = {};

    // The row and column in the tile of sum[i][j].
    static __device__ __forceinline__ int row(int i) {
        int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
        int patch = warp / WARPS_N * 4 + lane / 8;
        return i / V * (BM * V / TM) + patch * V + i % V;
    }
    static __device__ __forceinline__ int column(int j) {
        int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
        int patch = warp % WARPS_N * 8 + lane % 8;
        return j / V * (BN * V / TN) + patch * V + j % V;
    }

    // Adds `steps` times BK products a sum.
    template <class A, class B>
    __device__ __forceinline__ void multiply(A& a, B& b, int steps) {
        __shared__ __align__(16) T as[2][BK][BM + V];
        __shared__ __align__(16) T bs[2][BK][BN + V];
        if (steps == 0) return;
        a.fetch();
        b.fetch();
        a.put(as[0]);
        b.put(bs[0]);
        __syncthreads();
        const T* own_a = &as[0][0][row(0)];
        const T* own_b = &bs[0][0][column(0)];
        for (int step = 1;; step++) {
            if (step < steps) {
                a.fetch();
                b.fetch();
            }
            add(own_a, own_b);
            if (step == steps) break;
            // The other buffer, last read before the previous barrier.
            int other = step & 1;
            a.put(as[other]);
            b.put(bs[other]);
            __syncthreads();
            own_a += other ? BK * (BM + V) : -BK * (BM + V);
            own_b += other ? BK * (BN + V) : -BK * (BN + V);
        }
    }

    // Writes finish(sum, n) to row_of(m)[n] for the rows m < m_end and columns n < n_end of
    // a tile at (m, n); with VEC > 1 n_end and all addresses are multiples of 16 bytes.
    template <int VEC, class RowOf, class Finish>
    __device__ __forceinline__ void write(int m, int m_end, int n, int n_end, RowOf row_of,
                                          Finish finish) const {
#pragma unroll
        for (int i = 0; i < TM; i++) {
            if (m + row(i) >= m_end) continue;
            T* out = row_of(m + row(i));
#pragma unroll
            for (int j = 0; j < TN; j += V) {
                int first = n + column(j);
                if constexpr (VEC > 1) {
                    if (first >= n_end) continue;
                    Vec<T, V> values;
#pragma unroll
                    for (int v = 0; v < V; v++)
                        values.at[v] = T(finish(sum[i][j + v], first + v));
                    store<V>(out + first, values);
                } else {
#pragma unroll
                    for (int v = 0; v < V; v++)
                        if (first + v < n_end) out[first + v] = T(finish(sum[i][j + v], first + v));
                }
            }
        }
    }

  private:
    // Adds the products of the two tiles; a, b: the thread's first number in each.
    __device__ __forceinline__ void add(const T* a, const T* b) {
// Unrolled further, the compiler reads so far ahead that registers spill.
#pragma unroll 2
        for (int k = 0; k < BK; k++, a += BM + V, b += BN + V) {
            Vec<T, V> am[TM / V], bn[TN / V];
#pragma unroll
            for (int i = 0; i < TM / V; i++) am[i] = load<V>(a + i * (BM * V / TM));
#pragma unroll
            for (int j = 0; j < TN / V; j++) bn[j] = load<V>(b + j * (BN * V / TN));
#pragma unroll
            for (int i = 0; i < TM; i++)
#pragma unroll
                for (int j = 0; j < TN; j++)
                    sum[i][j] += am[i / V].at[i % V] * bn[j / V].at[j % V];
        }
    }
};
