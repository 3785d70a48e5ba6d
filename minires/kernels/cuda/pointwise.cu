// One pass where CuPy's own operations would take two.

// dy where y is positive, 0 times dy elsewhere: an infinite dy is not hidden by a 0.
template <class T>
__device__ void relu_dx(const T* dy, const T* y, T* dx, long long count) {
    for (long long i = first_index(); i < count; i += grid_size()) dx[i] = dy[i] * (y[i] > 0 ? T(1) : T(0));
}

extern "C" __global__ void __launch_bounds__(256)
    relu_dx_float(const float* dy, const float* y, float* dx, long long count) {
    relu_dx(dy, y, dx, count);
}
extern "C" __global__ void __launch_bounds__(256)
    relu_dx_double(const double* dy, const double* y, double* dx, long long count) {
    relu_dx(dy, y, dx, count);
}

// Crop, mirror and normalise pictures that lie on the device as bytes (all, H, W, C): out (rows, H, W, C).  The plan
// has four numbers for each picture of each batch: which one, how far down and to the right its window begins, and
// whether it is mirrored. `batch` counts the batches, on the device too, so that a captured graph goes on by itself.
// The mean picture is subtracted where a pixel was; what lies outside is zero afterwards.  No fused multiply-add: the
// same bits as NumPy's.
extern "C" __global__ void __launch_bounds__(256)
    augment(const unsigned char* pictures, const int* plan, const long long* batch, int batch_size, const float* mean,
            float scale, int padding, float* out, long long count, int height, int width, int channels) {
    for (long long i = first_index(); i < count; i += grid_size()) {
        const int c = i % channels, x = i / channels % width, y = i / channels / width % height;
        const int* const of = plan + 4 * (batch[0] * batch_size + i / channels / width / height);
        const int row = y + of[1] - padding, column = (of[3] ? width - 1 - x : x) + of[2] - padding;
        float value = 0.f;
        if (row >= 0 && row < height && column >= 0 && column < width) {
            const int at = (row * width + column) * channels + c;
            const long long first = (long long)of[0] * height * width * channels;
            value = __fsub_rn(__fmul_rn((float)pictures[first + at], scale), mean[at]);
        }
        out[i] = value;
    }
}

// The labels of the same pictures, and on to the next batch: launched after `augment`, as one block.
extern "C" __global__ void __launch_bounds__(1024)
    take_labels(const long long* labels, const int* plan, long long* batch, int batch_size, long long* out, int rows) {
    for (int i = threadIdx.x; i < rows; i += blockDim.x)
        out[i] = labels[plan[4 * (batch[0] * batch_size + i)]];
    __syncthreads();
    if (threadIdx.x == 0) batch[0]++;
}
