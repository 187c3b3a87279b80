// An operand of a matrix product, cut into tiles: which thread takes which of its numbers.
//
// What an operand is, a matrix or the patches of images, a view says: it names the address of
// VEC numbers that lie side by side, or null for zeros. Lines are rows of A (M) or columns of
// B (N). If the numbers lie along K the view goes into AlongK, if along the lines into AcrossK:
//
//     AlongK:   View(line, gap, k, by, ...)    at(i): numbers k, k+1, … of line + i·gap
//     AcrossK:  View(line, k, by, ...)         at():  number k of line, line+1, …
//               advance(): k += by
//
// Both split a tile of WIDTH lines × Tile::BK of K among Tile::THREADS threads, PARTS of VEC
// numbers each; part i begins at line(i), k(i) of the tile, if it is within(i) it at all. What
// is done with the parts, a tile says (gemm_tile.cuh, gemm_mma.cuh): it gives `take` to next().
#pragma once

#include "common.cuh"

template <typename T>
constexpr int PART = 16 / sizeof(T);  // numbers in 16 bytes

template <int VEC, typename T>
__device__ __forceinline__ Vec<T, VEC> load_or_zeros(const T* p) {
    Vec<T, VEC> value = {};
    if (p) value = load<VEC>(p);
    return value;
}

__host__ __device__ constexpr int power_of_two_within(int n) {
    return n < 2 ? 1 : 2 * power_of_two_within(n / 2);
}

// An operand whose numbers lie along K: a thread's parts are of several lines, GAP apart.
template <class Tile, int WIDTH_, int VEC_, template <typename, int> class View>
struct AlongK {
    static constexpr int WIDTH = WIDTH_, VEC = VEC_;
    static constexpr bool ALONG = true, SUMMED = false;
    static constexpr int IN_A_LINE = Tile::BK / VEC, GAP = Tile::THREADS / IN_A_LINE;
    static constexpr int PARTS = ceil_div(WIDTH, GAP);
    // As many neighbouring threads take different lines; their parts then follow along K.
    static constexpr int SIDE_BY_SIDE = VEC > 1 ? Tile::SIDE_BY_SIDE : 1;
    static_assert(GAP % SIDE_BY_SIDE == 0, "");
    View<typename Tile::Number, PARTS> view;

    // Starts at `line` of M or N, and at `k`; `arguments` are the view's own.
    template <typename... Arguments>
    __device__ __forceinline__ AlongK(int line, int k, const Arguments&... arguments)
        : view(line + AlongK::line(0), GAP, k + AlongK::k(0), Tile::BK, arguments...) {}

    static __device__ __forceinline__ int line(int i) {
        int group = threadIdx.x / (SIDE_BY_SIDE * IN_A_LINE);
        return group * SIDE_BY_SIDE + threadIdx.x % SIDE_BY_SIDE + i * GAP;
    }
    static __device__ __forceinline__ int k(int) {
        return threadIdx.x / SIDE_BY_SIDE % IN_A_LINE * VEC;
    }
    // A tile narrower than GAP leaves threads idle.
    static __device__ __forceinline__ bool within(int i) {
        return WIDTH % GAP == 0 || line(i) < WIDTH;
    }

    // Calls take(i, address or null) for each part of the next tile of K.
    template <class Take>
    __device__ __forceinline__ void next(Take take) {
#pragma unroll
        for (int i = 0; i < PARTS; i++) {
            auto address = view.at(i);
            if (within(i)) take(i, address);
        }
        view.advance();
    }
};

// An operand whose numbers lie along its lines: parts are of several places of K, STEP apart.
template <class Tile, int WIDTH_, int VEC_, template <typename> class View>
struct AcrossK {
    static constexpr int WIDTH = WIDTH_, VEC = VEC_;
    static constexpr bool ALONG = false, SUMMED = false;
    static constexpr int IN_A_ROW = WIDTH / VEC;
    static constexpr int ROWS = power_of_two_within(Tile::THREADS / IN_A_ROW);
    static constexpr int STEP = ROWS < Tile::BK ? ROWS : Tile::BK, PARTS = Tile::BK / STEP;
    using Number = typename Tile::Number;
    View<Number> view;

    template <typename... Arguments>
    __device__ __forceinline__ AcrossK(int line, int k, const Arguments&... arguments)
        : view(line + AcrossK::line(0), k + AcrossK::k(0), STEP, arguments...) {}

    static __device__ __forceinline__ int line(int) { return threadIdx.x % IN_A_ROW * VEC; }
    static __device__ __forceinline__ int k(int i) {
        return threadIdx.x / IN_A_ROW + i * STEP;
    }
    static __device__ __forceinline__ bool within(int) {
        return Tile::THREADS == STEP * IN_A_ROW || k(0) < STEP;
    }

    template <class Take>
    __device__ __forceinline__ void next(Take take) {
#pragma unroll
        for (int i = 0; i < PARTS; i++) {
            auto address = view.at();
            if (within(i)) take(i, address);
            view.advance();
        }
    }
};

// An operand across K of which each line's sum over K is wanted too. The tile shows it what each
// thread has copied: always the same VEC lines.
template <class Operand>
struct Summed : Operand {
    using Number = accumulator<typename Operand::Number>;
    static constexpr bool SUMMED = true;
    static constexpr int VEC = Operand::VEC, WIDTH = Operand::WIDTH;
    Vec<Number, VEC> sums = {};
    __device__ __forceinline__ explicit Summed(const Operand& operand) : Operand(operand) {}

    template <typename T>
    __device__ __forceinline__ void see(const Vec<T, VEC>& part) {
#pragma unroll
        for (int v = 0; v < VEC; v++) sums.at[v] += Number(part.at[v]);
    }
    // Calls put(line of the tile, sum), after the last tile and by all threads.
    template <class Put>
    __device__ __forceinline__ void finish(Put put) const {
        __shared__ __align__(16) Number rows[Operand::STEP][WIDTH];
        if (Operand::within(0)) store<VEC>(&rows[Operand::k(0)][Operand::line(0)], sums);
        __syncthreads();
        for (int line = threadIdx.x; line < WIDTH; line += blockDim.x) {
            Number sum = 0;
            for (int row = 0; row < Operand::STEP; row++) sum += rows[row][line];
            put(line, sum);
        }
    }
};
