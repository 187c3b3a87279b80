// No bug, a question: where in shared memory do the lanes of a warp read and write an operand?
//
// Formula   first[lane], second[lane]: the place, in numbers, of the lane's reading of a
//           fragment at line 0 and k 0, for A and for B; copied[lane]: of its first copy.
// Mapping   one warp.  Layout   an operand of WIDTH lines, along K or across.

#include "gemm_mma.cuh"

template <typename T, int PARTS = 1>
struct Nothing {};
template <typename T>
struct NothingAcross {};

template <typename T, int WIDTH, bool ALONG>
struct Choose {
    using type = AlongK<MmaTile<T, 128, 128>, WIDTH, PART<T>, Nothing>;
};
template <typename T, int WIDTH>
struct Choose<T, WIDTH, false> {
    using type = AcrossK<MmaTile<T, 128, 128>, WIDTH, PART<T>, NothingAcross>;
};

template <typename T, int WIDTH, bool ALONG>
__global__ void places(int* __restrict__ first, int* __restrict__ second,
                       int* __restrict__ copied) {
    constexpr int BK = 64 / sizeof(T);
    using Operand = typename Choose<T, WIDTH, ALONG>::type;
    using StageA = Stage<Operand, Side::A, T, BK>;
    first[threadIdx.x] = StageA::own(0);
    second[threadIdx.x] = Stage<Operand, Side::B, T, BK>::own(0);
    copied[threadIdx.x] = StageA::at(Operand::line(0), Operand::k(0));
}

INSTANTIATE(places<bf16, 64, true>, places<bf16, 48, false>, places<bf16, 64, false>,
            places<bf16, 96, false>, places<bf16, 128, false>, places<bf16, 192, false>,
            places<bf16, 256, false>);
INSTANTIATE(places<tf32, 64, true>, places<tf32, 48, false>, places<tf32, 64, false>,
            places<tf32, 96, false>, places<tf32, 128, false>, places<tf32, 192, false>,
            places<tf32, 256, false>);
