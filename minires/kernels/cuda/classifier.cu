// A linear layer and the cross-entropy of its result in one launch each way, for few inputs and classes: float32.

// z = x w + b, x (N, I), w (I, K), and what `cross_entropy` makes of z: a warp a row, a lane a class.
extern "C" __global__ void __launch_bounds__(128)
    linear_cross_entropy(const float* x, const float* w, const float* bias, const long long* labels, float smoothing,
                         float* logits, float* losses, float* probabilities, int rows, int inputs, int classes) {
    const long long row = first_index() / 32;
    if (row >= rows) return;
    for (int k = threadIdx.x % 32; k < classes; k += 32) {
        float sum = bias ? bias[k] : 0.f;
        for (int i = 0; i < inputs; i++) sum = fmaf(x[row * inputs + i], w[i * classes + k], sum);
        logits[row * classes + k] = sum;
    }
    __syncwarp();  // a lane looks at what the others have written
    cross_entropy(logits, labels, smoothing, losses, probabilities, rows, classes);
}

// What arrives at logit k of a row: (softmax - target) dloss; dloss is one number for each row, or one for all of them.
struct Arriving {
    const float* dloss;
    int apart;  // from the dloss of one row to that of the next: 1 or 0
    float share, smoothing;
    const float* probabilities;
    const long long* labels;
    int classes;

    __device__ __forceinline__ float at(long long row, int k) const {
        const float target = smoothing / classes + (labels[row] == k ? 1.f - smoothing : 0.f);
        return (probabilities[row * classes + k] - target) * dloss[row * apart] * share;
    }
};

// dx = g w^T in the first `dx_blocks` blocks, a thread a number.  dw = x^T g and db = sum of g in the others: a block
// has one class and 32 inputs, to which the bias belongs as one more that is always 1; eight shares of the rows are
// added up in a fixed order.
extern "C" __global__ void __launch_bounds__(256)
    linear_cross_entropy_backward(const float* dloss, int apart, float share, const float* probabilities,
                                  const long long* labels, float smoothing, const float* x, const float* w, float* dx,
                                  float* dw, float* db, int rows, int inputs, int classes, int dx_blocks) {
    const Arriving g = {dloss, apart, share, smoothing, probabilities, labels, classes};
    if ((int)blockIdx.x < dx_blocks) {
        const long long i = first_index(), row = i / inputs;
        if (row >= rows) return;
        float sum = 0.f;
        for (int k = 0; k < classes; k++) sum = fmaf(g.at(row, k), w[i % inputs * classes + k], sum);
        dx[i] = sum;
        return;
    }
    __shared__ float shared[8][32];
    const int block = blockIdx.x - dx_blocks, k = block % classes, lane = threadIdx.x / 32;
    const int input = block / classes * 32 + threadIdx.x % 32;
    float sum = 0.f;
    if (input <= inputs)
        for (int row = lane; row < rows; row += 8)
            sum = fmaf(input < inputs ? x[(long long)row * inputs + input] : 1.f, g.at(row, k), sum);
    shared[lane][threadIdx.x % 32] = sum;
    __syncthreads();
    if (lane || input > inputs) return;
    sum = 0.f;
    for (int l = 0; l < 8; l++) sum += shared[l][threadIdx.x];
    (input < inputs ? dw[input * classes + k] : db[k]) = sum;
}
