// Softmax and cross-entropy together: a warp a row of logits (N, K).

template <class T>
__device__ __forceinline__ T warp_max(T value) {
    for (int apart = 16; apart; apart /= 2) value = max(value, __shfl_xor_sync(~0u, value, apart));
    return value;
}

template <class T>
__device__ __forceinline__ T warp_sum(T value) {
    for (int apart = 16; apart; apart /= 2) value += __shfl_xor_sync(~0u, value, apart);
    return value;
}

// The target is 1 - s + s/K for the label and s/K for the others.  A label that is none of 0 to K - 1 gives NaN.
template <class T>
__device__ void cross_entropy(const T* logits, const long long* labels, T smoothing, T* losses, T* probabilities,
                              int rows, int classes) {
    const long long row = first_index() / 32;
    const int lane = threadIdx.x % 32;
    if (row >= rows) return;
    const T* const z = logits + row * classes;
    T largest = z[0];
    for (int k = lane; k < classes; k += 32) largest = max(largest, z[k]);  // of a NaN the sums below make a NaN
    largest = warp_max(largest);
    T total = 0, linear = 0;
    for (int k = lane; k < classes; k += 32) {
        total += exp(z[k] - largest);
        linear += z[k] - largest;
    }
    total = warp_sum(total);
    linear = warp_sum(linear);
    for (int k = lane; k < classes; k += 32) probabilities[row * classes + k] = exp(z[k] - largest) / total;
    if (lane) return;
    const long long label = labels[row];
    T loss = log(total);
    if (label < 0 || label >= classes)
        loss = T(0) / T(0);
    else
        loss -= (1 - smoothing) * (z[label] - largest);
    if (smoothing > 0) loss -= smoothing * linear / classes;
    losses[row] = loss;
}

// (softmax - target) dloss
template <class T>
__device__ void cross_entropy_dx(const T* dlosses, const T* probabilities, const long long* labels, T smoothing, T* dx,
                                 int rows, int classes) {
    for (long long i = first_index(); i < (long long)rows * classes; i += grid_size()) {
        const int row = i / classes, k = i % classes;
        dx[i] = (probabilities[i] - smoothing / classes - (labels[row] == k ? 1 - smoothing : T(0))) * dlosses[row];
    }
}

#define LOSSES(T)                                                                                              \
    extern "C" __global__ void __launch_bounds__(128)                                                          \
        cross_entropy_##T(const T* logits, const long long* labels, T smoothing, T* losses, T* probabilities,  \
                          int rows, int classes) {                                                             \
        cross_entropy(logits, labels, smoothing, losses, probabilities, rows, classes);                        \
    }                                                                                                          \
    extern "C" __global__ void __launch_bounds__(256)                                                          \
        cross_entropy_dx_##T(const T* dlosses, const T* probabilities, const long long* labels, T smoothing,   \
                             T* dx, int rows, int classes) {                                                   \
        cross_entropy_dx(dlosses, probabilities, labels, smoothing, dx, rows, classes);                        \
    }

LOSSES(float)
LOSSES(double)

// sums += (rows * mean loss, how many rows have their largest logit elsewhere than at the label): one block, so that
// the order is fixed.
extern "C" __global__ void __launch_bounds__(256)
    track(const float* loss, const float* logits, const long long* labels, double* sums, int rows, int classes) {
    __shared__ int shared[256];
    int wrong = 0;
    for (int r = threadIdx.x; r < rows; r += 256) {
        const float* const z = logits + (long long)r * classes;
        int best = 0;
        for (int k = 1; k < classes; k++)
            if (z[k] > z[best]) best = k;
        wrong += best != labels[r];
    }
    shared[threadIdx.x] = wrong;
    __syncthreads();
    for (int half = 128; half; half /= 2) {
        if ((int)threadIdx.x < half) shared[threadIdx.x] += shared[threadIdx.x + half];
        __syncthreads();
    }
    if (threadIdx.x == 0) sums[0] += (double)loss[0] * rows, sums[1] += shared[0];
}
