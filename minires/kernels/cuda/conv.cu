// Convolution as a matrix product whose left operand is never written down (implicit GEMM).
//
//   y[m, o]  = sum over k of x[pixel of tap k under window m, channel of k] w[k, o]       m: pixels of y
//   dx[m, c] = sum over k of dy[window whose tap k lies on pixel m, channel of k] w[...]  m: pixels of x
//   dw[k, o] = sum over m of x[pixel of tap k under window m, channel of k] dy[m, o]      split over parts of m
//
// A block computes ROWS x COLUMNS numbers of the result; see product.cuh.  Pictures are (N, H, W, C), filters (KH,
// KW, C / groups, O).
//
// A window of stride s puts tap u on pixel h only if h + p - u d is a multiple of s.  So the pixels of dx fall into s
// x s classes, h mod s and w mod s, each with taps of its own and no others: a block works on one class, and
// multiplies nothing by zero.

// What the two gathering kernels share: pictures (N, height, width, channels) from which rows are gathered, and the
// taps.  A tap adds (row_step, column_step) to the place that a row of the product begins at.
struct Gather {
    const float* pictures;
    int height, width, channels;        // of the pictures; all channels
    int first_channel, own_channels;    // of this block's group
    int first_row_offset, first_column_offset, row_step, column_step;  // of the first tap, and from tap to tap
    int tap_columns, taps;
    bool by_four;  // channels come in fours, so that four of them can be copied at once
};

// Where in the summed index, taps x channels, a thread's four numbers of a slice stand.
struct Place {
    int tap_row, tap_column, tap, channel;

    __device__ __forceinline__ void advance(const Gather& from, int by) {
        channel += by;
        while (channel >= from.own_channels && tap < from.taps) {
            channel -= from.own_channels;
            tap++;
            if (++tap_column == from.tap_columns) tap_column = 0, tap_row++;
        }
    }
};

// The rows of the product that one thread loads: where the picture begins and where the first tap falls, or a row
// that no tap can reach.
struct Window {
    int picture, row, column;
};

__device__ __forceinline__ void gather(float* target, const Gather& from, const Window& window, const Place& place) {
    const int row = window.row + from.first_row_offset + place.tap_row * from.row_step;
    const int column = window.column + from.first_column_offset + place.tap_column * from.column_step;
    const bool inside = place.tap < from.taps && (unsigned)row < (unsigned)from.height &&
                        (unsigned)column < (unsigned)from.width;
    const long long pixel = inside ? ((long long)window.picture * from.height + row) * from.width + column : 0;
    copy_async16(target, from.pictures + pixel * from.channels + from.first_channel + (inside ? place.channel : 0),
                 inside);
}

// The same for channels that do not come in fours: one number at a time.
__device__ __forceinline__ void gather_each(float* target, const Gather& from, const Window& window, Place place) {
    for (int e = 0; e < 4; e++, place.advance(from, 1)) {
        const int row = window.row + from.first_row_offset + place.tap_row * from.row_step;
        const int column = window.column + from.first_column_offset + place.tap_column * from.column_step;
        const bool inside = place.tap < from.taps && (unsigned)row < (unsigned)from.height &&
                            (unsigned)column < (unsigned)from.width;
        const long long pixel = ((long long)window.picture * from.height + row) * from.width + column;
        target[e] = inside ? from.pictures[pixel * from.channels + from.first_channel + place.channel] : 0.f;
    }
}

// Four neighbours of a row, of which only those before `end` exist.
__device__ __forceinline__ void load_row(float* target, const float* row, int first, int end, bool by_four) {
    if (by_four)
        copy_async16(target, first < end ? row + first : row, first < end);
    else
        for (int e = 0; e < 4; e++) target[e] = first + e < end ? row[first + e] : 0.f;
}

// y = x * w, then + bias, + residual and ReLU where asked; or the count, mean and sum of squared deviations of each
// channel over the block's rows, for a batch norm, in moments (blocks, 2, O).
template <int COLUMNS>
__device__ void convolve(const float* x, const float* w, const float* bias, const float* residual, int relu, float* y,
                         float* moments, int n, int height, int width, int channels, int out_height, int out_width,
                         int out_channels, int kernel_height, int kernel_width, int stride_rows, int stride_columns,
                         int pad_rows, int pad_columns, int dilation_rows, int dilation_columns, int groups) {
    const int ROWS = 128, RIGHT = COLUMNS + 8, LEFT_SIZE = ROWS * APART, SIZE = LEFT_SIZE + SLICE * RIGHT;
    __shared__ float4 memory[STAGES * SIZE / 4 > ROWS * (COLUMNS + 4) / 4 ? STAGES * SIZE / 4
                                                                          : ROWS * (COLUMNS + 4) / 4];
    float* const shared = (float*)memory;
    const int group = blockIdx.z, per_group = channels / groups, out_per_group = out_channels / groups;
    const int first_row = blockIdx.x * ROWS, first_column = blockIdx.y * COLUMNS;
    const int rows = n * out_height * out_width, depth = kernel_height * kernel_width * per_group;
    const bool by_four = per_group % 4 == 0;
    const bool columns_by_four = out_per_group % 4 == 0;
    const Gather from = {x, height, width, channels, group * per_group, per_group, 0, 0, dilation_rows,
                         dilation_columns, kernel_width, kernel_height * kernel_width, by_four};

    Place place = {0, 0, 0, 0};
    place.advance(from, threadIdx.x % 4 * 4);
    Window windows[ROWS / 32];
#pragma unroll
    for (int i = 0; i < ROWS / 32; i++) {
        const int m = first_row + threadIdx.x / 4 + 32 * i;
        const int row = m / out_width % out_height;
        windows[i] = {m / out_width / out_height, row * stride_rows - pad_rows,
                      m % out_width * stride_columns - pad_columns};
        if (m >= rows) windows[i] = {0, -(1 << 30), 0};
    }

    const int slices = (depth + SLICE - 1) / SLICE;
    using Tile = Product<ROWS, COLUMNS, APART, 1, RIGHT, 1>;
    multiply<Tile, LEFT_SIZE, SIZE>(shared, slices, [&](int s, float* left, float* right) {
#pragma unroll
        for (int i = 0; i < ROWS / 32; i++) {
            float* const target = left + (threadIdx.x / 4 + 32 * i) * APART + threadIdx.x % 4 * 4;
            if (by_four)
                gather(target, from, windows[i], place);
            else
                gather_each(target, from, windows[i], place);
        }
        place.advance(from, SLICE);
        for (int e = threadIdx.x; e < SLICE * COLUMNS / 4; e += THREADS) {
            const int k = s * SLICE + e / (COLUMNS / 4), column = e % (COLUMNS / 4) * 4;
            load_row(right + e / (COLUMNS / 4) * RIGHT + column,
                     w + (long long)(k < depth ? k : 0) * out_channels + group * out_per_group,
                     first_column + column, k < depth ? out_per_group : 0, columns_by_four);
        }
    });

    const int here = min(ROWS, rows - first_row);
    if (moments) {
        // a thread for each column and each of LANES shares of the rows; what they find is joined in fixed order
        const int LANES = THREADS / COLUMNS;
        __shared__ float partial[LANES][COLUMNS];
        const int column = threadIdx.x % COLUMNS, lane = threadIdx.x / COLUMNS;
        float mean = 0.f, squares = 0.f;
        for (int r = lane; r < here; r += LANES) mean += shared[r * (COLUMNS + 4) + column];
        partial[lane][column] = mean;
        __syncthreads();
        mean = 0.f;
        for (int l = 0; l < LANES; l++) mean += partial[l][column];
        mean /= here;
        __syncthreads();
        for (int r = lane; r < here; r += LANES) {
            const float deviation = shared[r * (COLUMNS + 4) + column] - mean;
            squares += deviation * deviation;
        }
        partial[lane][column] = squares;
        __syncthreads();
        if (lane == 0 && first_column + column < out_per_group) {
            squares = 0.f;
            for (int l = 0; l < LANES; l++) squares += partial[l][column];
            float* const target = moments + blockIdx.x * 2LL * out_channels + group * out_per_group + first_column + column;
            target[0] = mean;
            target[out_channels] = squares;
        }
    }
    for (int e = threadIdx.x; e < here * (COLUMNS / 4); e += THREADS) {
        const int row = e / (COLUMNS / 4), column = e % (COLUMNS / 4) * 4;
        const long long at = (long long)(first_row + row) * out_channels + group * out_per_group + first_column + column;
        const int wide = min(4, out_per_group - first_column - column);
        float value[4];
#pragma unroll
        for (int j = 0; j < 4; j++) {
            value[j] = shared[row * (COLUMNS + 4) + column + j];
            if (j >= wide) continue;
            if (bias) value[j] += bias[group * out_per_group + first_column + column + j];
            if (residual) value[j] += residual[at + j];
            if (relu && value[j] < 0.f) value[j] = 0.f;  // a NaN stays one
        }
        if (columns_by_four && wide == 4)
            store4(y + at, make_float4(value[0], value[1], value[2], value[3]));
        else
#pragma unroll
            for (int j = 0; j < 4; j++)
                if (j < wide) y[at + j] = value[j];
    }
}

// The gradient of the pictures, one class of pixels a block (see above): blockIdx.z counts groups and classes.
template <int COLUMNS>
__device__ void convolve_dx(const float* dy, const float* w, float* dx, int n, int height, int width, int channels,
                            int out_height, int out_width, int out_channels, int kernel_height, int kernel_width,
                            int stride_rows, int stride_columns, int pad_rows, int pad_columns, int dilation_rows,
                            int dilation_columns, int groups) {
    const int ROWS = 128, LEFT_SIZE = ROWS * APART, SIZE = LEFT_SIZE + COLUMNS * APART;
    __shared__ float4 memory[STAGES * SIZE / 4 > ROWS * (COLUMNS + 4) / 4 ? STAGES * SIZE / 4
                                                                          : ROWS * (COLUMNS + 4) / 4];
    float* const shared = (float*)memory;
    const int group = blockIdx.z % groups, of_class = blockIdx.z / groups;
    const int class_row = of_class / stride_columns, class_column = of_class % stride_columns;
    const int per_group = channels / groups, out_per_group = out_channels / groups;
    const int class_height = (height - class_row + stride_rows - 1) / stride_rows;
    const int class_width = (width - class_column + stride_columns - 1) / stride_columns;
    const int rows = n * class_height * class_width;
    const int first_row = blockIdx.x * ROWS, first_column = blockIdx.y * COLUMNS;
    if (first_row >= rows) return;

    // the first tap that falls on this class, and how far it is to the next: u with h + p - u d a multiple of s
    int tap_row = 0, tap_column = 0, next_row = 1, next_column = 1;
    while (tap_row < kernel_height && (class_row + pad_rows - tap_row * dilation_rows) % stride_rows) tap_row++;
    while (tap_column < kernel_width && (class_column + pad_columns - tap_column * dilation_columns) % stride_columns)
        tap_column++;
    while (next_row * dilation_rows % stride_rows) next_row++;
    while (next_column * dilation_columns % stride_columns) next_column++;
    const int tap_rows = (kernel_height - tap_row + next_row - 1) / next_row;
    const int tap_columns = (kernel_width - tap_column + next_column - 1) / next_column;
    const bool by_four = out_per_group % 4 == 0;
    const Gather from = {dy, out_height, out_width, out_channels, group * out_per_group, out_per_group,
                         (class_row + pad_rows - tap_row * dilation_rows) / stride_rows,
                         (class_column + pad_columns - tap_column * dilation_columns) / stride_columns,
                         -next_row * dilation_rows / stride_rows, -next_column * dilation_columns / stride_columns,
                         tap_columns, tap_rows * tap_columns, by_four};

    Place place = {0, 0, 0, 0};
    place.advance(from, threadIdx.x % 4 * 4);
    Window windows[ROWS / 32];
#pragma unroll
    for (int i = 0; i < ROWS / 32; i++) {
        const int m = first_row + threadIdx.x / 4 + 32 * i;
        windows[i] = {m / class_width / class_height, m / class_width % class_height, m % class_width};
        if (m >= rows) windows[i] = {0, -(1 << 30), 0};
    }

    const int slices = (from.taps * out_per_group + SLICE - 1) / SLICE;
    using Tile = Product<ROWS, COLUMNS, APART, 1, 1, APART>;
    multiply<Tile, LEFT_SIZE, SIZE>(shared, slices, [&](int s, float* left, float* right) {
#pragma unroll
        for (int i = 0; i < ROWS / 32; i++) {
            float* const target = left + (threadIdx.x / 4 + 32 * i) * APART + threadIdx.x % 4 * 4;
            if (by_four)
                gather(target, from, windows[i], place);
            else
                gather_each(target, from, windows[i], place);
        }
        for (int e = threadIdx.x; e < COLUMNS * 4; e += THREADS) {  // e % 4 is threadIdx.x % 4: the same place
            const int column = first_column + e / 4;
            float* const target = right + e / 4 * APART + e % 4 * 4;
            if (by_four) {
                const int tap = (tap_row + place.tap_row * next_row) * kernel_width + tap_column +
                                place.tap_column * next_column;
                const bool inside = place.tap < from.taps && column < per_group;
                const long long filter = inside ? (long long)tap * per_group + column : 0;
                copy_async16(target, w + filter * out_channels + from.first_channel + (inside ? place.channel : 0),
                             inside);
            } else {
                Place each = place;
                for (int j = 0; j < 4; j++, each.advance(from, 1)) {
                    const int tap = (tap_row + each.tap_row * next_row) * kernel_width + tap_column +
                                    each.tap_column * next_column;
                    const bool inside = each.tap < from.taps && column < per_group;
                    const long long filter = (long long)tap * per_group + column;
                    target[j] = inside ? w[filter * out_channels + from.first_channel + each.channel] : 0.f;
                }
            }
        }
        place.advance(from, SLICE);
    });

    const int here = min(ROWS, rows - first_row);
    const bool columns_by_four = per_group % 4 == 0;
    for (int e = threadIdx.x; e < here * (COLUMNS / 4); e += THREADS) {
        const int row = e / (COLUMNS / 4), column = e % (COLUMNS / 4) * 4, m = first_row + row;
        const int h = m / class_width % class_height * stride_rows + class_row;
        const int v = m % class_width * stride_columns + class_column;
        const long long pixel = ((long long)(m / class_width / class_height) * height + h) * width + v;
        const float* const value = shared + row * (COLUMNS + 4) + column;
        float* const target = dx + pixel * channels + group * per_group + first_column + column;
        const int wide = min(4, per_group - first_column - column);
        if (columns_by_four && wide == 4)
            store4(target, load4(value));
        else
            for (int j = 0; j < wide; j++) target[j] = value[j];
    }
}

// The gradient of the filters over one part of the windows, in parts (splits, KH * KW * C / groups, O): blockIdx.z
// counts groups and parts. `sum_rows` adds the parts up.
template <int COLUMNS>
__device__ void convolve_dw(const float* dy, const float* x, float* parts, int windows_per_part, int n, int height,
                            int width, int channels, int out_height, int out_width, int out_channels,
                            int kernel_height, int kernel_width, int stride_rows, int stride_columns, int pad_rows,
                            int pad_columns, int dilation_rows, int dilation_columns, int groups) {
    const int ROWS = 64, LEFT = ROWS + 8, RIGHT = COLUMNS + 8, LEFT_SIZE = SLICE * LEFT;
    const int SIZE = LEFT_SIZE + SLICE * RIGHT;
    __shared__ float4 memory[STAGES * SIZE / 4 > ROWS * (COLUMNS + 4) / 4 ? STAGES * SIZE / 4
                                                                          : ROWS * (COLUMNS + 4) / 4];
    float* const shared = (float*)memory;
    const int group = blockIdx.z % groups, part = blockIdx.z / groups;
    const int per_group = channels / groups, out_per_group = out_channels / groups;
    const int depth = kernel_height * kernel_width * per_group;
    const int first_row = blockIdx.x * ROWS, first_column = blockIdx.y * COLUMNS;
    const int windows = n * out_height * out_width;
    const int begin = part * windows_per_part, end = min(windows, begin + windows_per_part);
    const bool by_four = per_group % 4 == 0;
    // the first follows from the second, but without it the compiler runs out of registers (fp32, sm_90)
    const bool columns_by_four = out_channels % 4 == 0 && out_per_group % 4 == 0;

    // this thread always loads the same four filter elements, of windows 8 apart
    const int k = first_row + threadIdx.x % 16 * 4, tap = k / per_group, channel = k % per_group;
    const int row_offset = tap / kernel_width * dilation_rows - pad_rows;
    const int column_offset = tap % kernel_width * dilation_columns - pad_columns;
    int picture[2], row[2], column[2];
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const int m = begin + threadIdx.x / 16 + 8 * i;
        picture[i] = m / out_width / out_height, row[i] = m / out_width % out_height, column[i] = m % out_width;
    }
    // SLICE windows further on, in pictures, rows and columns
    const int ahead = SLICE / out_width / out_height, rows_ahead = SLICE / out_width % out_height;
    const int columns_ahead = SLICE % out_width;

    const int slices = (end - begin + SLICE - 1) / SLICE;
    using Tile = Product<ROWS, COLUMNS, 1, LEFT, RIGHT, 1>;
    multiply<Tile, LEFT_SIZE, SIZE>(shared, slices, [&](int s, float* left, float* right) {
        const int first = begin + s * SLICE;
#pragma unroll
        for (int i = 0; i < 2; i++) {
            float* const target = left + (threadIdx.x / 16 + 8 * i) * LEFT + threadIdx.x % 16 * 4;
            const bool real = first + threadIdx.x / 16 + 8 * i < end;
            if (by_four) {
                const int r = row[i] * stride_rows + row_offset, c = column[i] * stride_columns + column_offset;
                const bool inside = real && k < depth && (unsigned)r < (unsigned)height && (unsigned)c < (unsigned)width;
                const long long pixel = inside ? ((long long)picture[i] * height + r) * width + c : 0;
                copy_async16(target, x + pixel * channels + group * per_group + (inside ? channel : 0), inside);
            } else {
                for (int e = 0; e < 4; e++) {
                    const int t = (k + e) / per_group;
                    const int r = row[i] * stride_rows + t / kernel_width * dilation_rows - pad_rows;
                    const int c = column[i] * stride_columns + t % kernel_width * dilation_columns - pad_columns;
                    const bool inside =
                        real && k + e < depth && (unsigned)r < (unsigned)height && (unsigned)c < (unsigned)width;
                    const long long pixel = ((long long)picture[i] * height + r) * width + c;
                    target[e] = inside ? x[pixel * channels + group * per_group + (k + e) % per_group] : 0.f;
                }
            }
            picture[i] += ahead, row[i] += rows_ahead, column[i] += columns_ahead;
            if (column[i] >= out_width) column[i] -= out_width, row[i]++;
            if (row[i] >= out_height) row[i] -= out_height, picture[i]++;
        }
        for (int e = threadIdx.x; e < SLICE * COLUMNS / 4; e += THREADS) {
            const int m = first + e / (COLUMNS / 4), column = e % (COLUMNS / 4) * 4;
            load_row(right + e / (COLUMNS / 4) * RIGHT + column,
                     dy + (long long)(m < end ? m : 0) * out_channels + group * out_per_group,
                     first_column + column, m < end ? out_per_group : 0, columns_by_four);
        }
    });

    const int here = min(ROWS, depth - first_row);
    for (int e = threadIdx.x; e < here * COLUMNS; e += THREADS) {
        const int r = e / COLUMNS, c = e % COLUMNS;
        if (first_column + c < out_per_group)
            parts[((long long)part * depth + first_row + r) * out_channels + group * out_per_group + first_column + c] =
                shared[r * (COLUMNS + 4) + c];
    }
}

#define WINDOW_TYPES                                                                                            \
    int n, int height, int width, int channels, int out_height, int out_width, int out_channels,               \
        int kernel_height, int kernel_width, int stride_rows, int stride_columns, int pad_rows, int pad_columns, \
        int dilation_rows, int dilation_columns, int groups
#define WINDOW                                                                                                    \
    n, height, width, channels, out_height, out_width, out_channels, kernel_height, kernel_width, stride_rows,   \
        stride_columns, pad_rows, pad_columns, dilation_rows, dilation_columns, groups
#define CONVOLUTIONS(COLUMNS)                                                                                     \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                         \
        conv_##COLUMNS(const float* x, const float* w, const float* bias, const float* residual, int relu,        \
                       float* y, float* moments, WINDOW_TYPES) {                                                  \
        convolve<COLUMNS>(x, w, bias, residual, relu, y, moments, WINDOW);                                        \
    }                                                                                                             \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                         \
        conv_dx_##COLUMNS(const float* dy, const float* w, float* dx, WINDOW_TYPES) {                             \
        convolve_dx<COLUMNS>(dy, w, dx, WINDOW);                                                                  \
    }                                                                                                             \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                         \
        conv_dw_##COLUMNS(const float* dy, const float* x, float* parts, int windows_per_part, WINDOW_TYPES) {    \
        convolve_dw<COLUMNS>(dy, x, parts, windows_per_part, WINDOW);                                             \
    }

CONVOLUTIONS(16)
CONVOLUTIONS(32)
CONVOLUTIONS(64)
