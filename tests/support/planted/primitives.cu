// What the emulator promises, asked one by one; test_emulated_instructions.py knows the answers.
//
// Layout and mapping: see each kernel. One warp unless said otherwise.

#include "common.cuh"

// out (10, 32): shuffles and votes of x[lane].
__global__ void warp_words(const int* __restrict__ x, int* __restrict__ out) {
    int lane = threadIdx.x, value = x[lane], row = 0;
    unsigned all = 0xffffffffu;
    auto put = [&](int result) { out[32 * row++ + lane] = result; };
    put(__shfl_sync(all, value, 3));
    put(__shfl_sync(all, value, lane / 2, 8));
    put(__shfl_up_sync(all, value, 2));
    put(__shfl_down_sync(all, value, 3, 16));
    put(__shfl_xor_sync(all, value, 5));
    put((int)__ballot_sync(all, value % 3 == 0));
    put(__any_sync(all, value == x[7]));
    put(__all_sync(all, value != x[7]));
    put(lane < 16 ? __shfl_sync(0x0000ffffu, value, 15) : __shfl_sync(0xffff0000u, value, 16));
    put(__syncthreads_count(value % 3 == 0));
}

// total[block] of x (blocks, blockDim): shuffles within warps, then shared memory. Warps run
// ahead of the block: the loop's shuffles meet no barrier.
template <typename T>
__global__ void block_sum(const T* __restrict__ x, T* __restrict__ total) {
    __shared__ T partial[32];
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    T value = x[blockIdx.x * blockDim.x + threadIdx.x];
    for (int delta = 16; delta > 0; delta /= 2) value += __shfl_down_sync(~0u, value, delta);
    if (lane == 0) partial[warp] = value;
    __syncthreads();
    if (warp > 0) return;
    value = lane < warps ? partial[lane] : T(0);
    for (int delta = 16; delta > 0; delta /= 2) value += __shfl_down_sync(~0u, value, delta);
    if (lane == 0) total[blockIdx.x] = value;
}

// order: which thread ran first, second, … without barriers; counter starts at 0.
__global__ void running_order(int* __restrict__ order, int* __restrict__ counter) {
    order[atomicAdd(counter, 1)] = (int)global_thread();
}

// Lanes that return early are not waited for: y[lane] of the others is their neighbour's x.
__global__ void early_return(const int* __restrict__ x, int* __restrict__ y, int stay) {
    int lane = threadIdx.x;
    if (lane >= stay) return;
    y[lane] = __shfl_xor_sync(0xffffffffu, x[lane], 1);
    __syncwarp();
}

// where (grid, block, 6): every thread's blockIdx and threadIdx.
__global__ void places(int* __restrict__ where) {
    int block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
    int thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
    int* to = where + 6 * (block * (int)(blockDim.x * blockDim.y * blockDim.z) + thread);
    to[0] = blockIdx.x, to[1] = blockIdx.y, to[2] = blockIdx.z;
    to[3] = threadIdx.x, to[4] = threadIdx.y, to[5] = threadIdx.z;
}

// c (16, 8) = a (16, 16) · b: fragments through ldmatrix. b (8, 16) as columns of B, or with
// TRANS (16, 8) as rows.
template <bool TRANS>
__global__ void mma_bf16(const bf16* __restrict__ a, const bf16* __restrict__ b,
                         float* __restrict__ c) {
    __shared__ __align__(16) bf16 sa[16][16], sb[16 * 8];
    int lane = threadIdx.x;
    for (int i = lane; i < 256; i += 32) sa[i / 16][i % 16] = a[i];
    for (int i = lane; i < 128; i += 32) sb[i] = b[i];
    __syncwarp();
    unsigned fa[4], twice[4];
    ldmatrix_x4(fa, &sa[lane % 16][lane / 16 * 8]);
    if (TRANS)
        ldmatrix_x4_trans(twice, &sb[lane % 16 * 8]);
    else
        ldmatrix_x4(twice, &sb[lane % 8 * 16 + lane / 8 % 2 * 8]);
    unsigned fb[2] = {twice[0], twice[1]};
    float acc[4] = {1, 1, 1, 1};  // shows that mma adds
    mma_m16n8k16_bf16(acc, fa, fb, acc);
    for (int i = 0; i < 4; i++)
        c[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = acc[i] - 1;
}

// c (16, 8) = a (16, 8) · b (8, 8), fragments loaded by the PTX ISA's tables.
__global__ void mma_tf32(const float* __restrict__ a, const float* __restrict__ b,
                         float* __restrict__ c) {
    int g = threadIdx.x / 4, t = threadIdx.x % 4;
    unsigned fa[4], fb[2];
    for (int i = 0; i < 4; i++)
        fa[i] = tf32_from_float(a[(g + i % 2 * 8) * 8 + t + i / 2 * 4]);
    for (int i = 0; i < 2; i++) fb[i] = tf32_from_float(b[(t + 4 * i) * 8 + g]);
    float acc[4] = {};
    mma_m16n8k8_tf32(acc, fa, fb, acc);
    for (int i = 0; i < 4; i++) c[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = acc[i];
}

// Conversions of n numbers.
__global__ void narrow(const float* __restrict__ x, u16* __restrict__ b, u16* __restrict__ h,
                       float* __restrict__ t, int n) {
    for (int i = (int)global_thread(); i < n; i += (int)grid_threads()) {
        b[i] = bf16(x[i]).bits;
        h[i] = f16(x[i]).bits;
        t[i] = __uint_as_float(tf32_from_float(x[i]));
    }
}
__global__ void widen(const bf16* __restrict__ b, const f16* __restrict__ h,
                      float* __restrict__ from_b, float* __restrict__ from_h, int n) {
    for (int i = (int)global_thread(); i < n; i += (int)grid_threads()) {
        from_b[i] = b[i];
        from_h[i] = h[i];
    }
}

__global__ void larger(const float* __restrict__ a, const float* __restrict__ b,
                       float* __restrict__ found, int n) {
    for (int i = threadIdx.x; i < n; i += blockDim.x) found[i] = max_or_nan(a[i], b[i]);
}

// A shape passed by value, and every kind of number.
struct Shape {
    int n, c;
    float scale;
    long long far;
    int pad[2];
};
__global__ void see(double* __restrict__ out, Shape shape, int i, float f, double d, bool b,
                    u64 u, const float* nothing) {
    out[0] = shape.n, out[1] = shape.c, out[2] = shape.scale, out[3] = (double)shape.far;
    out[4] = shape.pad[0], out[5] = shape.pad[1];
    out[6] = i, out[7] = f, out[8] = d, out[9] = b, out[10] = (double)u;
    out[11] = nothing == nullptr;
}

INSTANTIATE(block_sum<float>, block_sum<int>, mma_bf16<false>, mma_bf16<true>);
