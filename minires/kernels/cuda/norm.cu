// Batch norm over pixels (P, C), C a multiple of four: a thread works on four neighbouring channels.

// Sum over the lanes of a block, each of which has `value` for the same quad of channels, in a fixed order.  Lane 0
// of each quad has the result. `shared` has a float4 for each thread.
__device__ __forceinline__ float4 sum_lanes(float4 value, float4* shared, int quads, int lanes) {
    shared[threadIdx.x] = value;
    __syncthreads();
    float4 total = make_float4(0.f, 0.f, 0.f, 0.f);
    if ((int)threadIdx.x < quads)
        for (int l = 0; l < lanes; l++) {
            const float4 one = shared[l * quads + threadIdx.x];
            total.x += one.x, total.y += one.y, total.z += one.z, total.w += one.w;
        }
    __syncthreads();
    return total;
}

// From the moments of `blocks` parts of `per_block` pixels each (the last one may have fewer), as `convolve` gives
// them, those of all pixels (Chan, Golub and LeVeque 1983), and the running ones moved towards them if there are any.
// 16 channels a block, 32 threads for each.
extern "C" __global__ void __launch_bounds__(512)
    join_moments(const float* parts, int blocks, int per_block, int pixels, int channels, float* mean, float* var,
                 float* running_mean, float* running_var, float momentum) {
    __shared__ float shared[32][17];
    __shared__ float of_all[16];
    const int column = threadIdx.x % 16, lane = threadIdx.x / 16, channel = blockIdx.x * 16 + column;
    const bool real = channel < channels;
    float total = 0.f;
    for (int b = lane; b < blocks && real; b += 32)
        total += parts[b * 2LL * channels + channel] * min(per_block, pixels - b * per_block);
    shared[lane][column] = total;
    __syncthreads();
    if (lane == 0) {
        total = 0.f;
        for (int l = 0; l < 32; l++) total += shared[l][column];
        of_all[column] = total / pixels;
    }
    __syncthreads();
    const float average = of_all[column];
    float squares = 0.f;
    for (int b = lane; b < blocks && real; b += 32) {
        const float* const part = parts + b * 2LL * channels + channel;
        squares += part[channels] + min(per_block, pixels - b * per_block) * (part[0] - average) * (part[0] - average);
    }
    shared[lane][column] = squares;
    __syncthreads();
    if (lane || !real) return;
    squares = 0.f;
    for (int l = 0; l < 32; l++) squares += shared[l][column];
    mean[channel] = average;
    var[channel] = squares / pixels;
    if (running_mean) {
        running_mean[channel] += momentum * (average - running_mean[channel]);
        running_var[channel] += momentum * (squares / (pixels - 1) - running_var[channel]);
    }
}

__device__ __forceinline__ float scale_of(float gamma, float var, float eps) { return gamma / sqrtf(var + eps); }

// y = gamma (x - mean) / std + beta, + residual and ReLU where asked.  The grid is a multiple of the quads of a
// pixel, so that a thread stays with its channels.
extern "C" __global__ void __launch_bounds__(256)
    batch_norm(const float* x, const float* gamma, const float* beta, const float* mean, const float* var, float eps,
               const float* residual, int relu, float* y, long long quads, int quads_per_pixel) {
    const int c = first_index() % quads_per_pixel * 4;
    const float4 g = load4(gamma + c), v = load4(var + c), m = load4(mean + c), b = load4(beta + c);
    const float4 s = make_float4(scale_of(g.x, v.x, eps), scale_of(g.y, v.y, eps), scale_of(g.z, v.z, eps),
                                 scale_of(g.w, v.w, eps));
    for (long long i = first_index(); i < quads; i += grid_size()) {
        float4 a = load4(x + 4 * i);
        a.x = (a.x - m.x) * s.x + b.x, a.y = (a.y - m.y) * s.y + b.y;
        a.z = (a.z - m.z) * s.z + b.z, a.w = (a.w - m.w) * s.w + b.w;
        if (residual) {
            const float4 r = load4(residual + 4 * i);
            a.x += r.x, a.y += r.y, a.z += r.z, a.w += r.w;
        }
        if (relu) {  // a NaN stays one
            a.x = a.x < 0.f ? 0.f : a.x, a.y = a.y < 0.f ? 0.f : a.y;
            a.z = a.z < 0.f ? 0.f : a.z, a.w = a.w < 0.f ? 0.f : a.w;
        }
        store4(y + 4 * i, a);
    }
}

// g = dy (y > 0), or dy where no ReLU followed (y null)
__device__ __forceinline__ float4 masked(const float* dy, const float* y, long long at) {
    float4 g = load4(dy + at);
    if (y) {
        const float4 a = load4(y + at);
        g.x *= a.x > 0.f, g.y *= a.y > 0.f, g.z *= a.z > 0.f, g.w *= a.w > 0.f;
    }
    return g;
}

// Sums over all pixels of g and of g (x - mean), and from them dbeta and dgamma. blockIdx.x: up to 32 quads of
// channels, blockIdx.y: a part of the pixels.  The block that is done last adds the parts (blocks, 2, C) up; `done`
// counts the others and is 0 again afterwards.
extern "C" __global__ void __launch_bounds__(256)
    batch_norm_sums(const float* dy, const float* y, const float* x, const float* mean, const float* var, float eps,
                    int pixels, int channels, int per_block, float* parts, float* sums, float* dgamma, float* dbeta,
                    int* done) {
    __shared__ float4 shared[256];
    __shared__ int before;
    const int first = blockIdx.x * 128, quads = min(32, (channels - first) / 4), lanes = 256 / quads;
    const int lane = threadIdx.x / quads, c = first + threadIdx.x % quads * 4;
    const float4 zero = make_float4(0.f, 0.f, 0.f, 0.f);
    float4 sum = zero, product = zero;
    if (lane < lanes) {
        const float4 m = load4(mean + c);
        const int end = min(pixels, (int)(blockIdx.y + 1) * per_block);
        for (int p = blockIdx.y * per_block + lane; p < end; p += lanes) {
            const long long at = (long long)p * channels + c;
            const float4 g = masked(dy, y, at), a = load4(x + at);
            sum.x += g.x, sum.y += g.y, sum.z += g.z, sum.w += g.w;
            product.x += g.x * (a.x - m.x), product.y += g.y * (a.y - m.y);
            product.z += g.z * (a.z - m.z), product.w += g.w * (a.w - m.w);
        }
    }
    sum = sum_lanes(sum, shared, quads, lanes);
    product = sum_lanes(product, shared, quads, lanes);
    if ((int)threadIdx.x < quads) {
        store4(parts + blockIdx.y * 2LL * channels + c, sum);
        store4(parts + (blockIdx.y * 2LL + 1) * channels + c, product);
    }
    __threadfence();  // the parts are there before the block counts as done
    __syncthreads();
    if (threadIdx.x == 0) before = atomicAdd(done + blockIdx.x, 1);
    __syncthreads();
    if (before != (int)gridDim.y - 1) return;
    __threadfence();
    sum = product = zero;
    if (lane < lanes)
        for (int b = lane; b < (int)gridDim.y; b += lanes) {
            const float4 s = __ldcg((const float4*)(parts + b * 2LL * channels + c));
            const float4 p = __ldcg((const float4*)(parts + (b * 2LL + 1) * channels + c));
            sum.x += s.x, sum.y += s.y, sum.z += s.z, sum.w += s.w;
            product.x += p.x, product.y += p.y, product.z += p.z, product.w += p.w;
        }
    sum = sum_lanes(sum, shared, quads, lanes);
    product = sum_lanes(product, shared, quads, lanes);
    if ((int)threadIdx.x < quads) {
        const float4 v = load4(var + c);
        store4(sums + c, sum);
        store4(sums + channels + c, product);
        store4(dbeta + c, sum);
        store4(dgamma + c, make_float4(scale_of(product.x, v.x, eps), scale_of(product.y, v.y, eps),
                                       scale_of(product.z, v.z, eps), scale_of(product.w, v.w, eps)));
    }
    if (threadIdx.x == 0) done[blockIdx.x] = 0;
}

// dx = gamma / std (g - sum(g) / m - (x - mean) / var sum(g (x - mean)) / m), and g itself where it is asked for.
extern "C" __global__ void __launch_bounds__(256)
    batch_norm_dx(const float* dy, const float* y, const float* x, const float* gamma, const float* mean,
                  const float* var, float eps, const float* sums, int pixels, int channels, float* dx, float* residual,
                  long long quads) {
    const int c = first_index() % (channels / 4) * 4;
    const float4 m = load4(mean + c), v = load4(var + c), w = load4(gamma + c);
    const float4 s = load4(sums + c), p = load4(sums + channels + c);
    const float share = 1.f / pixels;
    const float4 scale = make_float4(scale_of(w.x, v.x, eps), scale_of(w.y, v.y, eps), scale_of(w.z, v.z, eps),
                                     scale_of(w.w, v.w, eps));
    const float4 slope = make_float4(p.x * share / (v.x + eps), p.y * share / (v.y + eps), p.z * share / (v.z + eps),
                                     p.w * share / (v.w + eps));
    for (long long i = first_index(); i < quads; i += grid_size()) {
        const float4 g = masked(dy, y, 4 * i), a = load4(x + 4 * i);
        if (residual) store4(residual + 4 * i, g);
        store4(dx + 4 * i, make_float4(scale.x * (g.x - s.x * share - (a.x - m.x) * slope.x),
                                       scale.y * (g.y - s.y * share - (a.y - m.y) * slope.y),
                                       scale.z * (g.z - s.z * share - (a.z - m.z) * slope.z),
                                       scale.w * (g.w - s.w * share - (a.w - m.w) * slope.w)));
    }
}
