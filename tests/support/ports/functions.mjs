/* Right functions for the JavaScript template of new-port: its part 2, as tests fill it in. */

function forward(x, given) {
  const { channels, count, at } = layout(x, given.config.axis);
  const y = array(x.dtype, x.shape, x.data);
  const [mean, variance] = [[], []];
  for (let c = 0; c < channels; c++) {
    const found = moments(x.data, count, (i) => at(c, i));
    mean.push(found.hi + found.lo);
    variance.push(found.variance);
    normalize(x.data, y.data, count, (i) => at(c, i), found, c, given);
  }
  return { y, count, mean, var: variance };
}

/* Sums run over differences from an element, and the mean is a pair of numbers [BN-MOM-2]. */
function moments(data, count, at) {
  if (count === 0) return { hi: 0, lo: 0, variance: 0 };
  let [k, sum] = [data[at(0)], 0];
  for (let i = 1; i < count; i++) k = Math.max(k, data[at(i)]);
  for (let i = 0; i < count; i++) sum += data[at(i)] - k;
  const hi = k + sum / count;
  sum = 0;
  for (let i = 0; i < count; i++) sum += data[at(i)] - hi;
  const lo = sum / count;
  sum = 0;
  for (let i = 0; i < count; i++) sum += (data[at(i)] - hi - lo) ** 2;
  return { hi, lo, variance: sum / count };
}

function normalize(from, to, count, at, { hi, lo, variance }, c, given) {
  const scale = gammaOf(given, c) / Math.sqrt(variance + given.config.epsilon);
  const shift = (given.beta === null || !given.config.center ? 0 : given.beta.data[c]) - lo * scale;
  for (let i = 0; i < count; i++) to[at(i)] = (from[at(i)] - hi) * scale + shift;
}

function gammaOf(given, c) {
  return given.gamma === null || !given.config.scale ? 1 : given.gamma.data[c];
}

function update(state, count, mean, variance, given) {
  const { decay, correction, single_value } = given.config;
  const divisor = count - correction;
  if (count > 0 && divisor <= 0 && single_value === "raise")
    throw new Refused(`${count} value per channel; expected more than ${correction} [BN-RUN-4]. Use a larger batch.`);
  const blend = (old, found) => (decay === 1 ? old : decay === 0 ? found : old + (1 - decay) * (found - old));
  const moved = (old, found) => (count === 0 ? old : blend(old, found));
  const keeps = divisor <= 0 && single_value === "keep";
  const corrected = (m) => (mean.length && (m * count) / Math.max(divisor, 1));
  const means = [...state.mean.data].map((old, c) => moved(old, mean[c]));
  const vars = [...state.var.data].map((old, c) => (keeps ? old : moved(old, corrected(variance[c]))));
  return {
    mean: array(state.mean.dtype, state.mean.shape, means),
    var: array(state.var.dtype, state.var.shape, vars),
  };
}

function running(given, c) {
  return { hi: given.state.mean.data[c], lo: 0, variance: given.state.var.data[c] };
}

function infer(x, given) {
  const { channels, count, at } = layout(x, given.config.axis);
  const y = array(x.dtype, x.shape, x.data);
  for (let c = 0; c < channels; c++)
    normalize(x.data, y.data, count, (i) => at(c, i), running(given, c), c, given);
  return y;
}

function backward(x, dy, given) {
  const { channels, count, at } = layout(x, given.config.axis);
  const dx = array(x.dtype, x.shape, x.data);
  const [dgamma, dbeta] = [[], []];
  for (let c = 0; c < channels; c++) {
    const frozen = given.mode === "inference";
    const { hi, lo, variance } = frozen ? running(given, c) : moments(x.data, count, (i) => at(c, i));
    const istd = 1 / Math.sqrt(variance + given.config.epsilon);
    const a = gammaOf(given, c) * istd;
    let [sum, product] = [0, 0];
    for (let i = 0; i < count; i++) {
      sum += dy.data[at(c, i)];
      product += dy.data[at(c, i)] * (x.data[at(c, i)] - hi - lo);
    }
    for (let i = 0; i < count; i++) {
      const g = dy.data[at(c, i)];
      const d = x.data[at(c, i)] - hi - lo;
      dx.data[at(c, i)] = frozen ? a * g : a * g - (a * sum + a * istd * istd * product * d) / count;
    }
    dgamma.push(count ? product * istd : 0);
    dbeta.push(sum);
  }
  return { dx, dgamma, dbeta };
}
