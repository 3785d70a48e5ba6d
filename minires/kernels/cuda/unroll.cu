// im2col and its adjoint, in the order of the reference: columns (N, OH, OW, KH, KW, C), one thread a number.
//
// The adjoint gathers: a pixel collects from every window that saw it, in a fixed order, so that no two threads add
// to the same place and two runs give the same bits.

template <class T>
__device__ void unroll(const T* x, T* columns, long long count, int height, int width, int channels, int out_height,
                       int out_width, int kernel_height, int kernel_width, int stride_rows, int stride_columns,
                       int pad_rows, int pad_columns, int dilation_rows, int dilation_columns) {
    for (long long i = first_index(); i < count; i += grid_size()) {
        long long rest = i;
        const int c = rest % channels;
        rest /= channels;
        const int v = rest % kernel_width;
        rest /= kernel_width;
        const int u = rest % kernel_height;
        rest /= kernel_height;
        const int column = rest % out_width * stride_columns - pad_columns + v * dilation_columns;
        rest /= out_width;
        const int row = rest % out_height * stride_rows - pad_rows + u * dilation_rows;
        const long long image = rest / out_height;
        const bool inside = row >= 0 && row < height && column >= 0 && column < width;
        columns[i] = inside ? x[((image * height + row) * width + column) * channels + c] : T(0);
    }
}

template <class T>
__device__ void roll_up(const T* columns, T* x, long long count, int height, int width, int channels, int out_height,
                        int out_width, int kernel_height, int kernel_width, int stride_rows, int stride_columns,
                        int pad_rows, int pad_columns, int dilation_rows, int dilation_columns) {
    for (long long i = first_index(); i < count; i += grid_size()) {
        long long rest = i;
        const int c = rest % channels;
        rest /= channels;
        const int column = rest % width + pad_columns;
        rest /= width;
        const int row = rest % height + pad_rows;
        const long long image = rest / height;
        T total = 0;
        for (int u = 0; u < kernel_height; u++) {
            const int r = row - u * dilation_rows;
            if (r < 0 || r % stride_rows || r / stride_rows >= out_height) continue;
            for (int v = 0; v < kernel_width; v++) {
                const int q = column - v * dilation_columns;
                if (q < 0 || q % stride_columns || q / stride_columns >= out_width) continue;
                const long long window = (image * out_height + r / stride_rows) * out_width + q / stride_columns;
                total += columns[((window * kernel_height + u) * kernel_width + v) * channels + c];
            }
        }
        x[i] = total;
    }
}

#define UNROLLING(NAME, FUNCTION, T)                                                                              \
    extern "C" __global__ void __launch_bounds__(256)                                                             \
        NAME(const T* from, T* to, long long count, int height, int width, int channels, int out_height,          \
             int out_width, int kernel_height, int kernel_width, int stride_rows, int stride_columns,             \
             int pad_rows, int pad_columns, int dilation_rows, int dilation_columns) {                            \
        FUNCTION(from, to, count, height, width, channels, out_height, out_width, kernel_height, kernel_width,    \
                 stride_rows, stride_columns, pad_rows, pad_columns, dilation_rows, dilation_columns);            \
    }

UNROLLING(unroll_float, unroll, float)
UNROLLING(unroll_double, unroll, double)
UNROLLING(roll_up_float, roll_up, float)
UNROLLING(roll_up_double, roll_up, double)
