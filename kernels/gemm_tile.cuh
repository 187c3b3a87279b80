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
#pragma once

#include "gemm_operands.cuh"

// The sums of one thread, and where they belong.
template <typename T, int BM, int BN>
struct Tile {
    using Number = T;
    static constexpr int THREADS = 256, BLOCKS = 2, BK = 8;  // BLOCKS at a time
    static constexpr int SIDE_BY_SIDE = 1;
    static constexpr int V = PART<T>;
    static constexpr int TN = BN == 128 ? 8 : 4, TM = BM * BN / (THREADS * TN);
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
        auto& [as, bs] = shared();
        if (steps == 0) return;
        Held<A> next_a;
        Held<B> next_b;
        next_a.fetch(a);
        next_b.fetch(b);
        next_a.put(as[0], a);
        next_b.put(bs[0], b);
        __syncthreads();
        const T* own_a = &as[0][0][row(0)];
        const T* own_b = &bs[0][0][column(0)];
        for (int step = 1;; step++) {
            if (step < steps) {
                next_a.fetch(a);
                next_b.fetch(b);
            }
            add(own_a, own_b);
            if (step == steps) break;
            // The other buffer, last read before the previous barrier.
            int other = step & 1;
            next_a.put(as[other], a);
            next_b.put(bs[other], b);
            __syncthreads();
            // add() has gone to the end of one buffer, where the second begins.
            own_a -= other ? 0 : 2 * BK * (BM + V);
            own_b -= other ? 0 : 2 * BK * (BN + V);
        }
    }

    // Writes the sums of rows m < m_end and columns n < n_end of a tile at (m, n): that of
    // (m, n) to out[at], at = row_at(m) + n, after finish(sums, n, at) of `sums` side by side.
    // With VEC > 1 n_end and row_at are multiples of 16 bytes.
    template <int VEC, typename Out, class RowAt, class Finish>
    __device__ __forceinline__ void write(Out* out, int m, int m_end, int n, int n_end,
                                          RowAt row_at, Finish finish) const {
        constexpr int W = VEC > 1 ? V : 1;
#pragma unroll
        for (int i = 0; i < TM; i++) {
            if (m + row(i) >= m_end) continue;
            i64 start = row_at(m + row(i));
#pragma unroll
            for (int j = 0; j < TN; j += W) {
                int first = n + column(j);
                if (first >= n_end) continue;
                Vec<accumulator<T>, W> sums;
#pragma unroll
                for (int v = 0; v < W; v++) sums.at[v] = sum[i][j + v];
                finish(sums, first, start + first);
                store<W>(out + start + first, cast<Out>(sums));
            }
        }
    }

  private:
    struct Shared {
        T as[2][BK][BM + V], bs[2][BK][BN + V];
    };
    // The same for all the products of a kernel.
    static __device__ __forceinline__ Shared& shared() {
        __shared__ __align__(16) Shared both;
        return both;
    }

    // What a thread has read of an operand's next tile.
    template <class Operand>
    struct Held {
        static constexpr int VEC = Operand::VEC;
        Vec<T, VEC> part[Operand::PARTS];

        __device__ __forceinline__ void fetch(Operand& operand) {
            operand.next([&](int i, const T* p) { part[i] = load_or_zeros<VEC>(p); });
        }
        // Across K, as it lies in shared memory too; along K, transposed.
        template <int PITCH>
        __device__ __forceinline__ void put(T (&tile)[BK][PITCH], Operand& operand) const {
#pragma unroll
            for (int i = 0; i < Operand::PARTS; i++) {
                if (!Operand::within(i)) continue;
                int line = Operand::line(i), k = Operand::k(i);
                if constexpr (Operand::SUMMED) operand.see(part[i]);
                if constexpr (Operand::ALONG) {
#pragma unroll
                    for (int v = 0; v < VEC; v++) tile[k + v][line] = part[i].at[v];
                } else {
                    store<VEC>(&tile[k][line], part[i]);
                }
            }
        }
    };

    // Adds the products of the two tiles; a, b: the thread's first number in each, which go on
    // by BK rows.
    __device__ __forceinline__ void add(const T*& a, const T*& b) {
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
