// Sums over rows, in two stages: CuPy gives a reduction to C numbers as many blocks as there are results, 16 channels
// one.

// in (rows, columns) -> out (ceil(rows / per_block), columns): each block adds up 32 columns of `per_block` rows in 8
// lanes.
template <class T>
__device__ void sum_rows(const T* in, T* out, long long rows, int columns, long long per_block) {
    __shared__ T shared[8][33];
    const int x = threadIdx.x % 32, lane = threadIdx.x / 32;
    const int across = (columns + 31) / 32;  // blocks; one axis of the grid for both, as only that has no limit
    const long long column = blockIdx.x % across * 32LL + x, part = blockIdx.x / across;
    const long long first = part * per_block, end = min(rows, first + per_block);
    T total = 0;
    if (column < columns)
        for (long long r = first + lane; r < end; r += 8) total += in[r * columns + column];
    shared[lane][x] = total;
    __syncthreads();
    if (lane || column >= columns) return;
    for (int l = 1; l < 8; l++) total += shared[l][x];
    out[part * columns + column] = total;
}

extern "C" __global__ void __launch_bounds__(256)
    sum_rows_float(const float* in, float* out, long long rows, int columns, long long per_block) {
    sum_rows(in, out, rows, columns, per_block);
}
extern "C" __global__ void __launch_bounds__(256)
    sum_rows_double(const double* in, double* out, long long rows, int columns, long long per_block) {
    sum_rows(in, out, rows, columns, per_block);
}
