// Softmax with cross-entropy: loss, gradient, top-1 and top-5 counts.
//
// Formula   loss = Σ_n −ln softmax(z_n)[label_n], dz_n = (softmax(z_n) − onehot(label_n)) / count,
//           count the rows whose label is not −1; all others have a zero gradient.
//           A row is right in the top k when fewer than k classes come before its label: those
//           with a larger logit, or the same one and a smaller index. A NaN makes it wrong.
// Layout    logits, dlogits (n,k); labels (n,); scores (3,n): each row's loss, top-1, top-5;
//           totals (3,): their sums are added to it.
// Mapping   softmax_rows: a block a row, its threads stride over the classes. The largest
//           logit is taken off before exp. add_scores: block i sums scores[i].
// Assumes   A label of k or more makes the loss NaN. No order depends on the launch: thread t
//           sums every THREADS-th number from t on, then the sums meet in a fixed tree. All
//           arithmetic is in the accumulator type; dlogits are rounded once.
// Budget    64 registers, eight blocks a multiprocessor.

#include "common.cuh"

constexpr int THREADS = 128;

struct Sum {
    template <typename T>
    __device__ T operator()(T a, T b) const { return a + b; }
};
struct Max {
    template <typename T>
    __device__ T operator()(T a, T b) const { return max(a, b); }
};

// All the block's values combined, in every thread.
template <typename Combine, typename T>
__device__ __forceinline__ T reduce(T value, Combine combine) {
    __shared__ T warps[THREADS / 32];
    for (int lanes = 16; lanes > 0; lanes /= 2)
        value = combine(value, __shfl_xor_sync(0xffffffffu, value, lanes));
    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = value;
    __syncthreads();
    value = warps[0];
    for (int warp = 1; warp < THREADS / 32; warp++) value = combine(value, warps[warp]);
    __syncthreads();  // before `warps` is used again
    return value;
}

// How many rows have a label; at least one, since it divides.
__device__ __forceinline__ int counted(const int* __restrict__ labels, int n) {
    int count = 0;
    for (int i = threadIdx.x; i < n; i += THREADS) count += labels[i] >= 0;
    return max(reduce(count, Sum()), 1);
}

template <typename T>
__global__ void __launch_bounds__(THREADS, 8)
    softmax_rows(const T* __restrict__ logits, const int* __restrict__ labels,
                 T* __restrict__ dlogits, double* __restrict__ scores, int n, int k) {
    int row = blockIdx.x, label = labels[row];
    using A = accumulator<T>;
    const T* z = logits + (i64)row * k;
    T* dz = dlogits ? dlogits + (i64)row * k : nullptr;
    if (label < 0) {
        if (dz)
            for (int i = threadIdx.x; i < k; i += THREADS) dz[i] = T(0);
        if (threadIdx.x < 3) scores[(i64)threadIdx.x * n + row] = 0;
        return;
    }
    A mine = label < k ? A(z[label]) : A(nan(""));
    A largest = z[0];
    int ahead = 0;
    for (int i = threadIdx.x; i < k; i += THREADS) {
        A value = z[i];
        largest = max(largest, value);
        ahead += value > mine || (value == mine && i < label);
    }
    largest = reduce(largest, Max());
    ahead = reduce(ahead, Sum());
    A total = 0;
    for (int i = threadIdx.x; i < k; i += THREADS) total += exp(A(z[i]) - largest);
    total = reduce(total, Sum());
    if (dz) {
        A count = counted(labels, n);
        for (int i = threadIdx.x; i < k; i += THREADS)
            dz[i] = T((exp(A(z[i]) - largest) / total - A(i == label)) / count);
    }
    if (threadIdx.x == 0) {
        A loss = log(total) - (mine - largest);
        bool valid = loss == loss;
        scores[row] = loss;
        scores[(i64)n + row] = valid && ahead < 1;
        scores[2 * (i64)n + row] = valid && ahead < 5;
    }
}

__global__ void __launch_bounds__(THREADS, 8)
    add_scores(const double* __restrict__ scores, double* __restrict__ totals, int n) {
    scores += (i64)blockIdx.x * n;
    double sum = 0;
    for (int i = threadIdx.x; i < n; i += THREADS) sum += scores[i];
    sum = reduce(sum, Sum());
    if (threadIdx.x == 0) totals[blockIdx.x] += sum;
}

INSTANTIATE(softmax_rows<float>, softmax_rows<double>, softmax_rows<bf16>);
