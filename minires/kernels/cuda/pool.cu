// Pooling: one thread a number of the result, forward a window and backward a pixel that gathers from its windows.

// The cell of the maximum is its number within the window, kept if asked for.  A NaN is the largest, and of equals the
// first.
template <class T>
__device__ void max_pool(const T* x, T* y, int* chosen, long long count, int height, int width, int channels,
                         int out_height, int out_width, int kernel_height, int kernel_width, int stride_rows,
                         int stride_columns, int pad_rows, int pad_columns) {
    for (long long i = first_index(); i < count; i += grid_size()) {
        const int c = i % channels;
        const int column = i / channels % out_width * stride_columns - pad_columns;
        const int row = i / channels / out_width % out_height * stride_rows - pad_rows;
        const long long image = i / channels / out_width / out_height;
        T best = 0;
        int cell = -1;
        for (int u = max(0, -row); u < min(kernel_height, height - row); u++)
            for (int v = max(0, -column); v < min(kernel_width, width - column); v++) {
                const T value = x[((image * height + row + u) * width + column + v) * channels + c];
                if (cell < 0 || value > best || (value != value && best == best)) best = value, cell = u * kernel_width + v;
            }
        y[i] = best;
        if (chosen) chosen[i] = cell;
    }
}

// What the windows that hold a pixel give it: `share` of the whole, or all of it to the cell that was chosen.
template <class T>
__device__ void pool_dx(const T* dy, const int* chosen, T share, T* dx, long long count, int height, int width,
                        int channels, int out_height, int out_width, int kernel_height, int kernel_width,
                        int stride_rows, int stride_columns, int pad_rows, int pad_columns) {
    for (long long i = first_index(); i < count; i += grid_size()) {
        const int c = i % channels;
        const int column = i / channels % width + pad_columns;
        const int row = i / channels / width % height + pad_rows;
        const long long image = i / channels / width / height;
        const int top = row < kernel_height ? 0 : (row - kernel_height) / stride_rows + 1;
        const int left = column < kernel_width ? 0 : (column - kernel_width) / stride_columns + 1;
        T total = 0;
        for (int p = top; p < out_height && p * stride_rows <= row; p++)
            for (int q = left; q < out_width && q * stride_columns <= column; q++) {
                const long long at = ((image * out_height + p) * out_width + q) * channels + c;
                const int cell = (row - p * stride_rows) * kernel_width + column - q * stride_columns;
                if (!chosen || chosen[at] == cell) total += dy[at] * share;
            }
        dx[i] = total;
    }
}

template <class T>
__device__ void avg_pool(const T* x, T* y, long long count, int height, int width, int channels, int out_height,
                         int out_width, int kernel_height, int kernel_width, int stride_rows, int stride_columns,
                         int pad_rows, int pad_columns) {
    for (long long i = first_index(); i < count; i += grid_size()) {
        const int c = i % channels;
        const int column = i / channels % out_width * stride_columns - pad_columns;
        const int row = i / channels / out_width % out_height * stride_rows - pad_rows;
        const long long image = i / channels / out_width / out_height;
        T total = 0;
        for (int u = max(0, -row); u < min(kernel_height, height - row); u++)
            for (int v = max(0, -column); v < min(kernel_width, width - column); v++)
                total += x[((image * height + row + u) * width + column + v) * channels + c];
        y[i] = total / (kernel_height * kernel_width);
    }
}

#define POOL_TYPES                                                                                             \
    long long count, int height, int width, int channels, int out_height, int out_width, int kernel_height,   \
        int kernel_width, int stride_rows, int stride_columns, int pad_rows, int pad_columns
#define POOL                                                                                                       \
    count, height, width, channels, out_height, out_width, kernel_height, kernel_width, stride_rows, stride_columns, \
        pad_rows, pad_columns
#define POOLING(T)                                                                                              \
    extern "C" __global__ void __launch_bounds__(256) max_pool_##T(const T* x, T* y, int* chosen, POOL_TYPES) { \
        max_pool(x, y, chosen, POOL);                                                                           \
    }                                                                                                           \
    extern "C" __global__ void __launch_bounds__(256) avg_pool_##T(const T* x, T* y, POOL_TYPES) {              \
        avg_pool(x, y, POOL);                                                                                   \
    }                                                                                                           \
    extern "C" __global__ void __launch_bounds__(256)                                                           \
        pool_dx_##T(const T* dy, const int* chosen, T share, T* dx, POOL_TYPES) {                               \
        pool_dx(dy, chosen, share, dx, POOL);                                                                   \
    }

POOLING(float)
POOLING(double)
