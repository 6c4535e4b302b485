/// The mean as a pair of numbers, and the population variance, of a channel.
struct Moments {
    hi: f64,
    lo: f64,
    var: f64,
}

/// Sums run over differences from an element [BN-MOM-2].
fn moments(x: &Array, case: &Case, c: usize) -> Moments {
    if case.count == 0 {
        return Moments { hi: 0.0, lo: 0.0, var: 0.0 };
    }
    let n = case.count as f64;
    let values = || (0..case.count).map(|i| x.value[case.at(c, i)]);
    let k = values().fold(f64::NEG_INFINITY, |a, b| if b > a { b } else { a });
    let hi = k + values().map(|v| v - k).sum::<f64>() / n;
    let lo = values().map(|v| v - hi).sum::<f64>() / n;
    let var = values().map(|v| (v - hi - lo).powi(2)).sum::<f64>() / n;
    Moments { hi, lo, var }
}

fn running(state: &State, c: usize) -> Moments {
    Moments { hi: state.mean.value[c], lo: 0.0, var: state.var.value[c] }
}

fn normalize(x: &Array, y: &mut Array, case: &Case, c: usize, s: &Moments) {
    let scale = case.gamma(c) / (s.var + case.epsilon).sqrt();
    let shift = case.beta(c) - s.lo * scale;
    for at in (0..case.count).map(|i| case.at(c, i)) {
        y.value[at] = (x.value[at] - s.hi) * scale + shift;
    }
}

fn forward(x: &Array, case: &Case) -> Answer<(Array, Statistics)> {
    let mut y = x.clone();
    let mut batch = Statistics { mean: Vec::new(), var: Vec::new() };
    for c in 0..case.channels {
        let s = moments(x, case, c);
        normalize(x, &mut y, case, c, &s);
        batch.mean.push(s.hi + s.lo);
        batch.var.push(s.var);
    }
    Ok((y, batch))
}

fn update(state: &State, batch: &Statistics, case: &Case) -> Answer<State> {
    let mut new = State { mean: state.mean.clone(), var: state.var.clone(), count: None };
    let (n, divisor) = (case.count as f64, case.count as f64 - case.correction);
    if case.count == 0 {
        return Ok(new);
    }
    if divisor <= 0.0 && case.single_value == "raise" {
        return Err(Reply::Refused(format!(
            "{n} value per channel; expected more than {} [BN-RUN-4]. Use a larger batch.",
            case.correction
        )));
    }
    let blend = |old: f64, found: f64| match case.decay {
        1.0 => old,
        0.0 => found,
        decay => old + (1.0 - decay) * (found - old),
    };
    for c in 0..case.channels {
        new.mean.value[c] = blend(state.mean.value[c], batch.mean[c]);
        if divisor > 0.0 || case.single_value == "floor" {
            new.var.value[c] = blend(state.var.value[c], batch.var[c] * n / divisor.max(1.0));
        }
    }
    Ok(new)
}

fn infer(x: &Array, state: &State, case: &Case) -> Answer<Array> {
    let mut y = x.clone();
    for c in 0..case.channels {
        normalize(x, &mut y, case, c, &running(state, c));
    }
    Ok(y)
}

fn backward(x: &Array, dy: &Array, case: &Case) -> Answer<(Array, Vec<f64>, Vec<f64>)> {
    let (mut dx, mut dgamma, mut dbeta) = (x.clone(), Vec::new(), Vec::new());
    for c in 0..case.channels {
        let s = match &case.state {
            Some(state) if case.inference => running(state, c),
            _ => moments(x, case, c),
        };
        let istd = 1.0 / (s.var + case.epsilon).sqrt();
        let (a, n) = (case.gamma(c) * istd, case.count as f64);
        let at: Vec<usize> = (0..case.count).map(|i| case.at(c, i)).collect();
        let sum: f64 = at.iter().map(|&p| dy.value[p]).sum();
        let product: f64 = at.iter().map(|&p| dy.value[p] * (x.value[p] - s.hi - s.lo)).sum();
        for &p in &at {
            let d = x.value[p] - s.hi - s.lo;
            dx.value[p] = a * dy.value[p];
            if !case.inference {
                dx.value[p] -= (a * sum + a * istd * istd * product * d) / n;
            }
        }
        dgamma.push(if case.count == 0 { 0.0 } else { product * istd });
        dbeta.push(sum);
    }
    Ok((dx, dgamma, dbeta))
}
