// Exponential and logarithm within 2 units in the last place, whatever the driver's own are worth (some are
// off by 1e-5). Put in front of the programs that need them. Reductions and polynomials as in Cephes.

/// eˣ; 0 below -87.3, about infinite above 88, NaN of NaN.
fn exponential(x: f32) -> f32 {
    let n = floor(fma(clamp(x, -87.3, 88.0), 1.44269504, 0.5));
    // ln 2 in two parts; the first has so few bits that its product with n is exact.
    let r = fma(n, 2.12194440e-4, fma(n, -0.693359375, x));
    var p = fma(1.9875691e-4, r, 1.3981999e-3);
    p = fma(p, r, 8.3334519e-3);
    p = fma(p, r, 4.1665796e-2);
    p = fma(p, r, 1.6666665e-1);
    p = fma(p, r, 0.5);
    let y = fma(p, r * r, r) + 1.0;
    let result = select(y * bitcast<f32>((i32(n) + 127i) << 23u), 0.0, x < -87.3);
    // A comparison of integers, because drivers may take it that a float is no NaN.
    return select(result, x, (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u);
}

/// ln x of a positive, normal x; infinity and NaN of themselves.
fn logarithm(x: f32) -> f32 {
    let bits = bitcast<i32>(x);
    // A comparison of integers, because drivers may take it that a float is no NaN.
    if (bits & 0x7f800000i) == 0x7f800000i {
        return x;
    }
    // The mantissa between √½ and √2.
    let n = (bits - 0x3f3504f3i) >> 23u;
    let r = bitcast<f32>(bits - (n << 23u)) - 1.0;
    let z = r * r;
    var p = fma(7.0376836e-2, r, -1.1514610e-1);
    p = fma(p, r, 1.1676998e-1);
    p = fma(p, r, -1.2420140e-1);
    p = fma(p, r, 1.4249322e-1);
    p = fma(p, r, -1.6668057e-1);
    p = fma(p, r, 2.0000714e-1);
    p = fma(p, r, -2.4999993e-1);
    p = fma(p, r, 3.3333331e-1);
    let e = f32(n);
    let y = fma(e, -2.12194440e-4, r * z * p);
    return fma(e, 0.693359375, fma(z, -0.5, y) + r);
}
