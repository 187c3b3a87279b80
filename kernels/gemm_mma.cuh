// A tile of a matrix product on the tensor cores, with the interface of gemm_tile.cuh's Tile.
//
//     global memory     shared memory: a ring of STAGES        registers of a warp
//                       ┌────────┬────────┬────────┐
//      A ──┐ cp.async   │ step   │ step+1 │ step+2 │   ldmatrix    A: WM × 32 bytes, twice
//      B ──┴──────────► │  A, B  │  A, B  │  A, B  │ ────────────► B: WN × 32 bytes, twice
//                       └────────┴────────┴────────┘              │ mma.sync
//                     read, then         on their way             ▼
//                     step+3 is begun                          sum: WM × WN floats
//
// A step is 64 bytes of K of all the tile's lines, BM of A and BN of B. Each warp owns WM × WN
// of the block's BM × BN sums. bf16 multiplies by mma m16n8k16; tf32, float in memory, by mma
// m16n8k8, its numbers rounded on their way into registers; tf32x3 by three such, of the two
// parts of its numbers. Sums are float.
//
// In shared memory an operand lies as in global memory, so that 16 bytes are copied as one:
// along K a row is a line, across K a row is a place of K. Rows are longer than what they
// hold, against bank conflicts. docs/kernels.md draws all of it.
#pragma once

#include "gemm_operands.cuh"

// d = c + a · b
__device__ __forceinline__ void mma(bf16, float (&d)[4], const unsigned (&a)[4],
                                    const unsigned (&b)[2], const float (&c)[4]) {
    mma_m16n8k16_bf16(d, a, b, c);
}
__device__ __forceinline__ void mma(tf32, float (&d)[4], const unsigned (&a)[4],
                                    const unsigned (&b)[2], const float (&c)[4]) {
    mma_m16n8k8_tf32(d, a, b, c);
}

// Which of an mma's two operands fragments are for.
enum class Side { A, B };

// An operand in one stage of shared memory.
template <class Operand, Side SIDE, typename T, int BK>
struct Stage {
    static constexpr bool ALONG = Operand::ALONG;
    static constexpr int ROWS = ALONG ? Operand::WIDTH : BK;
    // Along K: 5 · 16 bytes. Across K: bf16 an odd number of 16 bytes too; tf32, which is not
    // read by ldmatrix there, 8 words more than a multiple of 16.
    static constexpr int PITCH = ALONG ? BK + PART<T> : Operand::WIDTH + 8;
    static constexpr int SIZE = ROWS * PITCH;

    static __device__ __forceinline__ int at(int line, int k) {
        return ALONG ? line * PITCH + k : k * PITCH + line;
    }

    // Begins the copy of the operand's next tile. Number by number it is made at once.
    static __device__ __forceinline__ void copy(Operand& operand, T* stage) {
        operand.next([&](int i, const T* from) {
            T* to = stage + at(Operand::line(i), Operand::k(i));
            if constexpr (Operand::VEC > 1)
                cp_async_16(to, from, from ? 16 : 0);
            else
                *to = from ? *from : T(0);
        });
    }

    // Shows a Summed operand what the thread has copied to the stage.
    static __device__ __forceinline__ void show(Operand& operand, const T* stage) {
        if constexpr (Operand::SUMMED)
            if (Operand::within(0))
#pragma unroll
                for (int i = 0; i < Operand::PARTS; i++)
                    operand.see(load<Operand::VEC>(stage + at(Operand::line(i), Operand::k(i))));
    }

    // A fragment is 16 lines × 32 bytes of K, in four blocks of 8 lines × 16 bytes. Of each,
    // lane 4·i + t holds in one register line i's bytes 4·t to 4·t + 3. Block b of A: lines
    // 8·(b % 2), the K bytes 16·(b / 2); of B the other way, so that two neighbours make the
    // 8 columns of one mma.
    static __device__ __forceinline__ int block_line(int b) {
        return 8 * (SIDE == Side::A ? b % 2 : b / 2);
    }
    static __device__ __forceinline__ int block_k(int b) {
        return PART<T> * (SIDE == Side::A ? b / 2 : b % 2);
    }

    // Where the lane's own reading of a fragment at (line, 0) begins: for ldmatrix the row
    // lane % 8 of block lane / 8; without it the lane's number of block 0.
    static __device__ __forceinline__ int own(int line) {
        int lane = threadIdx.x % 32, b = lane / 8, row = lane % 8;
        if constexpr (ALONG) return at(line + block_line(b) + row, block_k(b));
        if constexpr (sizeof(T) == 2) return at(line + block_line(b), block_k(b) + row);
        return at(line + lane / 4, lane % 4);
    }

    // N fragments, 16 lines apart, of the 32 bytes of K from k on; from: the stage + own().
    template <int N>
    static __device__ __forceinline__ void take(unsigned (&fragment)[N][4], const T* from,
                                                int k) {
#pragma unroll
        for (int n = 0; n < N; n++) {
            const T* p = from + at(16 * n, k);
            if constexpr (ALONG) {
                ldmatrix_x4(fragment[n], p);
            } else if constexpr (sizeof(T) == 2) {
                ldmatrix_x4_trans(fragment[n], p);
            } else {  // ldmatrix transposes pairs of bytes only
#pragma unroll
                for (int b = 0; b < 4; b++)
                    fragment[n][b] = __float_as_uint(p[at(block_line(b), block_k(b))]);
            }
            if constexpr (sizeof(T) == 4 && !SPLIT<T>)
#pragma unroll
                for (int b = 0; b < 4; b++)
                    fragment[n][b] = tf32_from_float(__uint_as_float(fragment[n][b]));
        }
    }
};

template <typename T, int BM, int BN>
struct MmaTile {
    using Number = T;
    // Two parts of each number, and sums beside the sums, leave registers for fewer of these.
    static constexpr int SPLIT_N = BN % 48 ? 32 : 48, SPLIT_THREADS = BM * BN / SPLIT_N;
    static constexpr int THREADS = SPLIT<T> ? SPLIT_THREADS : BM * BN > 128 * 128 ? 256 : 128;
    static constexpr int BLOCKS = 256 / THREADS;
    static constexpr int WARPS_M = SPLIT<T> ? BM / 32 : BM > 128 ? 4 : 2;
    static constexpr int WARPS_N = THREADS / 32 / WARPS_M;
    static constexpr int WM = BM / WARPS_M, WN = BN / WARPS_N;
    static constexpr int BK = 64 / sizeof(T), DEEP = BK / 2;  // numbers in 64 and 32 bytes
    static constexpr int STAGES = 3;
    static constexpr int SIDE_BY_SIDE = 8;  // 8 copies at a time: as 8 rows, no bank twice
    static_assert(WM % 16 == 0 && WN % 16 == 0, "");

    // sum[i][j]: of the warp's rows from 16·i on and columns from 8·j on. With g = lane / 4 and
    // t = lane % 4: columns 2·t and 2·t + 1 of row g, and then of row g + 8.
    using Sums = float[WM / 16][WN / 8][4];
    Sums sum = {};

    static __device__ __forceinline__ int warp_row() { return threadIdx.x / 32 / WARPS_N * WM; }
    static __device__ __forceinline__ int warp_column() {
        return threadIdx.x / 32 % WARPS_N * WN;
    }

    // Adds `steps` times BK products a sum. Needs the stages as dynamic shared memory.
    template <class A, class B>
    __device__ __forceinline__ void multiply(A& a, B& b, int steps) {
        extern __shared__ __align__(16) unsigned char memory[];
        using StageA = Stage<A, Side::A, T, BK>;
        using StageB = Stage<B, Side::B, T, BK>;
        constexpr int SIZE = StageA::SIZE + StageB::SIZE;
        T *first = reinterpret_cast<T*>(memory), *last = first + (STAGES - 1) * SIZE;
        T* now = first;
        // One group of copies a step; beyond the last step, views give zeros.
        auto copy = [&](T* stage) {
            StageA::copy(a, stage);
            StageB::copy(b, stage + StageA::SIZE);
            cp_async_commit();
        };
        int own_a = StageA::own(warp_row()), own_b = StageB::own(warp_column()) + StageA::SIZE;
        unsigned fragment_a[2][WM / 16][4], fragment_b[2][WN / 16][4];
        auto take = [&](const T* stage, int half) {
            StageA::take(fragment_a[half], stage + own_a, half * DEEP);
            StageB::take(fragment_b[half], stage + own_b, half * DEEP);
        };

#pragma unroll 1
        for (int step = 0; step < STAGES; step++) copy(now + step * SIZE);
        cp_async_wait<STAGES - 1>();
        __syncthreads();
        take(now, 0);
        for (int step = 0; step < steps; step++) {
            Sums part = {};
            Sums& to = SPLIT<T> ? part : sum;
            take(now, 1);
            add(to, fragment_a[0], fragment_b[0]);
            StageA::show(a, now);  // in half 0's registers
            // step + STAGES groups have begun; all but the last STAGES − 2 shall have ended.
            cp_async_wait<STAGES - 2>();
            // Now every thread's share of the next step is there, and this step is read.
            __syncthreads();
            T* next = now == last ? first : now + SIZE;
            take(next, 0);  // on its way while the tensor cores multiply half 1
            copy(now);
            add(to, fragment_a[1], fragment_b[1]);
            if constexpr (SPLIT<T>) add(part);
            now = next;
        }
        cp_async_wait<0>();  // no copy outlives its block
    }

    // As Tile::write; Out is T or float.
    template <int VEC, typename Out, class RowAt, class Finish>
    __device__ __forceinline__ void write(Out* out, int m, int m_end, int n, int n_end,
                                          RowAt row_at, Finish finish) const {
        m += warp_row() + threadIdx.x % 32 / 4;
        n += warp_column();
#pragma unroll
        for (int i = 0; i < WM / 8; i++, m += 8) {
            bool inside = m < m_end;  // no lane may leave: write_16 exchanges
            i64 start = inside ? row_at(m) : 0;
#pragma unroll
            for (int j = 0; j < WN / 8; j += 2) {
                Vec<float, 2> pair[2];
#pragma unroll
                for (int b = 0; b < 2; b++)
#pragma unroll
                    for (int v = 0; v < 2; v++)
                        pair[b].at[v] = sum[i / 2][j + b][i % 2 * 2 + v];
                write_16<VEC>(out, start, n + 8 * j, inside ? n_end : 0, pair, finish);
            }
        }
    }

  private:
    // to += a · b, of 32 bytes of K; numbers in two parts are split.
    static __device__ __forceinline__ void add(Sums& to, unsigned (&a)[WM / 16][4],
                                               unsigned (&b)[WN / 16][4]) {
        unsigned low_a[4], low_b[WN / 16][4];
        if constexpr (SPLIT<T>)
#pragma unroll
            for (int n = 0; n < WN / 16; n++) split(b[n], low_b[n]);
#pragma unroll
        for (int i = 0; i < WM / 16; i++) {
            if constexpr (SPLIT<T>) {
                split(a[i], low_a);
                add_row(to[i], low_a, b);
                add_row(to[i], a[i], low_b);
            }
            add_row(to[i], a[i], b);
        }
    }

    // Of 16 rows.
    static __device__ __forceinline__ void add_row(float (&to)[WN / 8][4], const unsigned (&a)[4],
                                                   const unsigned (&b)[WN / 16][4]) {
#pragma unroll
        for (int j = 0; j < WN / 8; j++) {
            const unsigned columns[2] = {b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]};
            mma(T(), to[j], a, columns, to[j]);
        }
    }

    // Tensor cores cut off what a sum has no place for, each time on the same side. So numbers
    // in two parts are summed over no more than a step; that is added by rounding.
    __device__ __forceinline__ void add(const Sums& part) {
#pragma unroll
        for (int i = 0; i < WM / 16; i++)
#pragma unroll
            for (int j = 0; j < WN / 8; j++)
#pragma unroll
                for (int v = 0; v < 4; v++) sum[i][j][v] += part[i][j][v];
    }

    // Floats become the high parts, tf32; low: what these leave, tf32 too.
    static __device__ __forceinline__ void split(unsigned (&fragment)[4], unsigned (&low)[4]) {
#pragma unroll
        for (int b = 0; b < 4; b++) {
            float whole = __uint_as_float(fragment[b]);
            fragment[b] = tf32_from_float(whole);
            low[b] = tf32_from_float(whole - __uint_as_float(fragment[b]));
        }
    }

    // 16 columns from n on of a row that begins at out[start]; of each half, pair[half] is the
    // thread's.
    template <int VEC, typename Out, class Finish>
    static __device__ __forceinline__ void write_16(Out* out, i64 start, int n, int n_end,
                                                    Vec<float, 2> (&pair)[2], Finish finish) {
        int t = threadIdx.x % 4, odd = t % 2;
        if constexpr (VEC == 1) {
#pragma unroll
            for (int v = 0; v < 4; v++) {
                int column = n + v / 2 * 8 + 2 * t + v % 2;
                if (column >= n_end) continue;
                Vec<float, 1> one = {{pair[v / 2].at[v % 2]}};
                finish(one, column, start + column);
                out[start + column] = Out(one.at[0]);
            }
        } else {
#pragma unroll
            for (int half = 0; half < 2; half++) {
                int column = n + 8 * half + 2 * t;
                if (column >= n_end) continue;
                finish(pair[half], column, start + column);
                if constexpr (sizeof(Out) == 4)
                    store<2>(out + start + column, cast<Out>(pair[half]));
            }
            if constexpr (sizeof(Out) == 2) {
                // A pair is 4 bytes, and 4 threads would write 16, half a sector of memory. So an
                // even thread gives its second pair for the next thread's first: 8 bytes each.
                unsigned first = bf16x2_from_floats(pair[0].at[0], pair[0].at[1]);
                unsigned second = bf16x2_from_floats(pair[1].at[0], pair[1].at[1]);
                unsigned got = __shfl_xor_sync(~0u, odd ? first : second, 1);
                uint2 four = odd ? make_uint2(got, second) : make_uint2(first, got);
                int column = n + 8 * odd + t / 2 * 4;
                if (column < n_end) *reinterpret_cast<uint2*>(out + start + column) = four;
            }
        }
    }
};
