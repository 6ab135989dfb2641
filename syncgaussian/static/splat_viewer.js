// SplatViewer: 3D Gaussians drawn with WebGL2, by the same EWA projection as syncgaussian.rasterizer.
// Small settings live in the widget's traits. Everything large (the cloud, frames of motion, sound) comes as
// binary messages that this view asks for, so a saved notebook never holds it.

const WIDTH = 1024          // texels in a row of the data textures
const BATCH = 512          // squares in an instance: many small instances are slow everywhere
const KEEP = 256 << 20      // bytes of motion kept in the browser
const MODES = ['splats', 'points', 'ellipsoids']
const COLORS = ['rgb', 'opacity', 'depth', 'attention', 'displacement']

const SHARED = `#version 300 es
precision highp float; precision highp int;
uniform vec4 uK;       // fx fy cx cy, px of the drawing buffer
uniform vec2 uSize;    // drawing buffer, px
uniform float uReach;  // ellipsoid surface, in sigmas
`
const VERTEX = SHARED + `
precision highp sampler2D;
uniform sampler2D uMeans, uQuats, uScales, uColors, uRest, uAttention;
uniform mat3 uR; uniform vec3 uT;
uniform float uGrow, uFade, uFar;   // size factor, opacity factor, displacement that is drawn brightest [m]
uniform vec2 uDepths;               // nearest, farthest [m]
uniform int uMode, uPaint;
uniform highp usampler2D uOrder; uniform int uCount;
out vec2 vSigma; flat out vec4 vColor; flat out mat3 vInverse; flat out vec3 vCenter;

vec3 viridis(float t) {
  const vec3 a=vec3(.2777,.0054,.3341), b=vec3(.1051,1.4046,1.3846), c=vec3(-.3309,.2148,.0951), d=vec3(-4.6342,-5.7991,-19.3324),
             e=vec3(6.2283,14.1799,56.6906), f=vec3(4.7764,-13.7451,-65.3530), g=vec3(-5.4355,4.6459,26.3124);
  t = clamp(t, 0., 1.);
  return a+t*(b+t*(c+t*(d+t*(e+t*(f+t*g)))));
}
vec3 paint(vec3 rgb, float o, float z, ivec2 at, vec3 p) {
  if (uPaint == 1) return viridis(o);
  if (uPaint == 2) return viridis((uDepths.y-z)/(uDepths.y-uDepths.x));
  if (uPaint == 3) { vec2 w = texelFetch(uAttention, at, 0).rg; return vec3(w.x, .5*w.x*w.y+.15, w.y); }
  if (uPaint == 4) return viridis(length(p-texelFetch(uRest, at, 0).xyz)/uFar);
  return rgb;
}
void main() {
  gl_Position = vec4(0., 0., 2., 1.);
  int slot = gl_InstanceID*${BATCH}+gl_VertexID/4;
  if (slot >= uCount) return;
  int id = int(texelFetch(uOrder, ivec2(slot%${WIDTH}, slot/${WIDTH}), 0).r);
  ivec2 at = ivec2(id%${WIDTH}, id/${WIDTH});
  vec2 corner = vec2(gl_VertexID&1, (gl_VertexID>>1)&1)*2.-1.;
  vec3 p = texelFetch(uMeans, at, 0).xyz;
  vec4 q = normalize(texelFetch(uQuats, at, 0));
  vec3 s = texelFetch(uScales, at, 0).xyz*uGrow;
  vec4 c = texelFetch(uColors, at, 0);
  vec3 t = uR*p+uT;
  float o = min(c.a*uFade, 1.);
  if (t.z < .01 || o < 1./255.) return;
  float w=q.x, x=q.y, y=q.z, z=q.w;
  mat3 turn = uR*mat3(1.-2.*(y*y+z*z), 2.*(x*y+w*z), 2.*(x*z-w*y), 2.*(x*y-w*z), 1.-2.*(x*x+z*z), 2.*(y*z+w*x),
                      2.*(x*z+w*y), 2.*(y*z-w*x), 1.-2.*(x*x+y*y));
  mat3 half_ = mat3(turn[0]*s.x, turn[1]*s.y, turn[2]*s.z), cov = half_*transpose(half_);
  vec2 low = -(uK.zw/uK.xy+.15*uSize/uK.xy), high = (uSize-uK.zw)/uK.xy+.15*uSize/uK.xy;
  vec2 u = clamp(t.xy/t.z, low, high);
  vec3 j0 = vec3(uK.x, 0., -uK.x*u.x)/t.z, j1 = vec3(0., uK.y, -uK.y*u.y)/t.z;
  float a = dot(j0, cov*j0)+.3, b = dot(j0, cov*j1), d = dot(j1, cov*j1)+.3;
  float mid = .5*(a+d), r = length(vec2(.5*(a-d), b));
  vec2 sd = sqrt(vec2(mid+r, max(mid-r, .05)));
  vec2 e = abs(b) < 1e-6 ? (a >= d ? vec2(1., 0.) : vec2(0., 1.)) : normalize(vec2(b, mid+r-a));
  float reach = sqrt(2.*log(255.*o));
  if (uMode == 1) { sd = vec2(max(1., 1.6*uGrow*uSize.y/512.)); reach = 1.; }
  if (uMode == 2) { reach = 1.1*uReach; sd += 1.; }
  vSigma = corner*reach;
  vColor = vec4(paint(c.rgb, o, t.z, at, p), o);
  vCenter = t;
  vec3 inv = 1./(max(s, 2e-5)*uReach);
  vInverse = transpose(mat3(turn[0]*inv.x, turn[1]*inv.y, turn[2]*inv.z));
  vec2 px = uK.xy*t.xy/t.z+uK.zw+e*sd.x*vSigma.x+vec2(-e.y, e.x)*sd.y*vSigma.y;
  gl_Position = vec4(2.*px.x/uSize.x-1., 1.-2.*px.y/uSize.y, 0., 1.);
}`
const IN = SHARED + `
in vec2 vSigma; flat in vec4 vColor; flat in mat3 vInverse; flat in vec3 vCenter; out vec4 oColor;
`
const SPLAT = IN + `void main() {
  float a = min(vColor.a*exp(-.5*dot(vSigma, vSigma)), .999);
  if (a < 1./255.) discard;
  oColor = vec4(vColor.rgb*a, a);
}`
const SOLID = IN + `uniform int uMode; void main() {
  if (vColor.a < .05) discard;
  vec3 hit = vCenter; float light = 1.;
  if (uMode == 1) { if (dot(vSigma, vSigma) > 1.) discard; }
  else {
    vec3 ray = vec3((gl_FragCoord.x-uK.z)/uK.x, (uSize.y-gl_FragCoord.y-uK.w)/uK.y, 1.);
    vec3 o = -(vInverse*vCenter), d = vInverse*ray;
    float a = dot(d, d), b = dot(o, d), disc = b*b-a*(dot(o, o)-1.);
    if (disc < 0.) discard;
    float t = (-b-sqrt(disc))/a;
    hit = ray*t;
    light = .35+.65*max(0., -normalize(transpose(vInverse)*(o+d*t)).z);
  }
  gl_FragDepth = 1.-.01/max(hit.z, .01);
  oColor = vec4(clamp(vColor.rgb, 0., 1.)*light, 1.);
}`

// ---------------------------------------------------------------- pure helpers

function mul(a, b) {  // 3x3, row major
  const c = new Float64Array(9)
  for (let i=0; i<3; i++) for (let j=0; j<3; j++) for (let k=0; k<3; k++) c[3*i+j] += a[3*i+k]*b[3*k+j]
  return c
}
const apply = (m, v) => [0, 1, 2].map(i => m[3*i]*v[0]+m[3*i+1]*v[1]+m[3*i+2]*v[2])

export function orbit(view, target, yaw, pitch, zoom) {
  "World to camera after turning the head about `target`: the twin of syncgaussian.viewer.orbit"
  const R0 = [view[0], view[1], view[2], view[4], view[5], view[6], view[8], view[9], view[10]]
  const at = apply(R0, target).map((x, i) => (x+view[4*i+3])/zoom)
  const [cy, sy, cp, sp] = [Math.cos(yaw), Math.sin(yaw), Math.cos(pitch), Math.sin(pitch)]
  const R = mul([1, 0, 0, 0, cp, -sp, 0, sp, cp], mul(R0, [cy, 0, sy, 0, 1, 0, -sy, 0, cy]))
  const turned = apply(R, target)
  return {R, t: at.map((x, i) => x-turned[i])}
}

export function sortFarToNear(means, n, layers, shown, R, t, order) {
  "Counting sort by (layer, depth): the last layer first, and in it the farthest first. Returns how many are drawn"
  const depths = sortFarToNear.depths = sortFarToNear.depths?.length >= n ? sortFarToNear.depths : new Float32Array(n)
  let lo = Infinity, hi = -Infinity
  for (let i=0, j=0; i<n; i++, j+=4) {
    const z = depths[i] = R[6]*means[j]+R[7]*means[j+1]+R[8]*means[j+2]+t[2]
    if (z < lo) lo = z
    if (z > hi) hi = z
  }
  const drawn = layers.filter(o => shown(o.name)).reverse(), bins = 65536
  const counts = new Uint32Array(drawn.length*bins+1), scale = (bins-1)/Math.max(hi-lo, 1e-9)
  const each = f => drawn.forEach((o, rank) => { for (let i=o.start; i<o.start+o.count; i++) f(i, rank*bins+((hi-depths[i])*scale|0)) })
  each((i, k) => counts[k+1]++)
  for (let k=1; k<counts.length; k++) counts[k] += counts[k-1]
  const total = counts[counts.length-1]
  each((i, k) => order[counts[k]++] = i)
  return total
}

// ---------------------------------------------------------------- drawing

function makePainter(gl) {
  const compile = (type, source) => {
    const shader = gl.createShader(type)
    gl.shaderSource(shader, source); gl.compileShader(shader)
    if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS) && !gl.isContextLost()) throw Error(gl.getShaderInfoLog(shader))
    return shader
  }
  const link = fragment => {
    const program = gl.createProgram(), at = {}
    gl.attachShader(program, compile(gl.VERTEX_SHADER, VERTEX)); gl.attachShader(program, compile(gl.FRAGMENT_SHADER, fragment))
    gl.linkProgram(program)
    if (!gl.getProgramParameter(program, gl.LINK_STATUS) && !gl.isContextLost()) throw Error(gl.getProgramInfoLog(program))
    return {program, at: name => at[name] ??= gl.getUniformLocation(program, name)}
  }
  const splat = link(SPLAT), solid = link(SOLID)
  const vao = gl.createVertexArray(); gl.bindVertexArray(vao)
  const squares = new Uint16Array(6*BATCH)
  for (let i=0; i<BATCH; i++) squares.set([0, 1, 2, 2, 1, 3].map(o => 4*i+o), 6*i)
  gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, gl.createBuffer()); gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, squares, gl.STATIC_DRAW)
  const names = ['uMeans', 'uQuats', 'uScales', 'uColors', 'uRest', 'uAttention', 'uOrder']
  const textures = names.map(() => gl.createTexture())
  const formats = {means: [gl.RGBA32F, gl.RGBA, gl.FLOAT, 4], quats: [gl.RGBA16F, gl.RGBA, gl.HALF_FLOAT, 4], scales: [gl.RGB16F, gl.RGB, gl.HALF_FLOAT, 3],
                   colors: [gl.RGBA16F, gl.RGBA, gl.HALF_FLOAT, 4], attention: [gl.RG8, gl.RG, gl.UNSIGNED_BYTE, 2],
                   order: [gl.R32UI, gl.RED_INTEGER, gl.UNSIGNED_INT, 1]}
  formats.rest = formats.means
  gl.pixelStorei(gl.UNPACK_ALIGNMENT, 1)

  function load(name, data) {
    const slot = names.indexOf('u'+name[0].toUpperCase()+name.slice(1))
    const [internal, format, type, channels] = formats[name], rows = Math.max(1, Math.ceil(data.length/channels/WIDTH))
    let padded = data
    if (data.length < rows*WIDTH*channels) { padded = new data.constructor(rows*WIDTH*channels); padded.set(data) }
    gl.activeTexture(gl.TEXTURE0+slot); gl.bindTexture(gl.TEXTURE_2D, textures[slot])
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, gl.NEAREST); gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MAG_FILTER, gl.NEAREST)
    gl.texImage2D(gl.TEXTURE_2D, 0, internal, WIDTH, rows, 0, format, type, padded)
  }
  function paint(count, pose, look) {
    const mode = MODES.indexOf(look.mode), {program, at} = mode ? solid : splat, [fx, fy, cx, cy] = look.K
    gl.viewport(0, 0, look.width, look.height)
    gl.clearColor(0, 0, 0, 0); gl.clearDepth(1); gl.depthMask(true); gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT)
    gl.useProgram(program); gl.bindVertexArray(vao)
    names.forEach((name, i) => { gl.activeTexture(gl.TEXTURE0+i); gl.bindTexture(gl.TEXTURE_2D, textures[i]); gl.uniform1i(at(name), i) })
    gl.uniformMatrix3fv(at('uR'), true, new Float32Array(pose.R)); gl.uniform3fv(at('uT'), pose.t)
    gl.uniform4f(at('uK'), fx, fy, cx, cy); gl.uniform2f(at('uSize'), look.width, look.height); gl.uniform1f(at('uReach'), 1.5)
    gl.uniform1f(at('uGrow'), look.grow); gl.uniform1f(at('uFade'), look.fade); gl.uniform1f(at('uFar'), look.far)
    gl.uniform2fv(at('uDepths'), look.depths); gl.uniform1i(at('uMode'), mode); gl.uniform1i(at('uPaint'), COLORS.indexOf(look.color))
    gl.uniform1i(at('uCount'), count)
    if (mode) { gl.disable(gl.BLEND); gl.enable(gl.DEPTH_TEST) }
    else { gl.disable(gl.DEPTH_TEST); gl.enable(gl.BLEND); gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA) }
    gl.drawElementsInstanced(gl.TRIANGLES, 6*BATCH, gl.UNSIGNED_SHORT, 0, Math.ceil(count/BATCH))
  }
  return {load, paint}
}

// ---------------------------------------------------------------- the widget

function render({model, el}) {
  const {on, watch, get, set, setSoon, showStill, leave} = ties(model)

  const canvas = h('canvas', {class: 'sg-canvas', tabindex: '0', role: 'img', 'aria-label':
    '3D Gaussians. Drag or arrow keys turn, plus and minus zoom, 0 resets, space plays, comma and full stop step a frame.'})
  const still = h('img', {class: 'sg-still', alt: 'Still picture of the Gaussians'})
  const stage = h('div', {class: 'sg-stage'}, still, canvas)
  const status = h('div', {class: 'sg-status', role: 'status'}, 'Waiting for the kernel: the still picture is shown until the Gaussians arrive.')
  const panel = h('div', {class: 'sg-panel'})
  const root = h('div', {class: 'sg-widget sg-splat', role: 'group', 'aria-label': 'Gaussian viewer', 'data-lm-suppress-shortcuts': 'true'}, stage, panel, status)
  el.append(root)

  showStill(still)

  const gl = canvas.getContext('webgl2', {alpha: true, antialias: false, premultipliedAlpha: true})
  if (!gl) {
    canvas.hidden = true; root.dataset.state = 'no-webgl2'; root.classList.add('sg-failed')
    status.textContent = 'This browser does not offer WebGL2, so the Gaussians cannot be turned here: switch on its hardware acceleration or take another browser. The still picture above was drawn by the rasteriser.'
    return leave
  }

  // state of this view
  let painter = makePainter(gl), cloud = null, means = null, order = new Uint32Array(0), count = 0
  let pose = {yaw: get('yaw'), pitch: get('pitch'), zoom: get('zoom')}
  let dirty = false, resort = true, sorted = 0, shownFrame = -1, heard = 0, rate = 0, last = 0, closed = false
  const touch = (sort = false) => { resort ||= sort; if (!dirty && !closed) { dirty = true; requestAnimationFrame(draw) } }

  // -------- controls
  const field = (text, node) => h('label', {class: 'sg-field'}, h('span', {}, text), node)
  const choice = (name, values, label) => {
    const node = h('select', {'aria-label': label}, ...values.map(v => h('option', {value: v}, v)))
    const pull = () => { node.value = get(name); touch(true) }
    on(node, 'change', () => { set(name, node.value); touch(true) }); watch('change:'+name, pull); pull()
    return node
  }
  const slider = (name, min, max, step, label) => {
    const node = h('input', {type: 'range', min: `${min}`, max: `${max}`, step: `${step}`, 'aria-label': label})
    const pull = () => { node.value = get(name); touch() }
    on(node, 'input', () => { model.set(name, +node.value); setSoon({[name]: +node.value}); touch() }); watch('change:'+name, pull); pull()
    return node
  }
  const mode = choice('mode', MODES, 'Draw as'), color = choice('color', COLORS, 'Colour by')
  const reset = h('button', {type: 'button', title: 'Reset the view (0)'}, 'Reset view')
  const boxes = h('span', {class: 'sg-boxes', role: 'group', 'aria-label': 'Branches'})
  const play = h('button', {type: 'button', class: 'sg-play', 'aria-label': 'Play'}, '▶')
  const scrub = h('input', {type: 'range', min: '0', max: '0', step: '1', value: '0', class: 'sg-scrub', 'aria-label': 'Frame'})
  const time = h('output', {class: 'sg-time'})
  const follow = h('input', {type: 'checkbox', checked: get('follow'), 'aria-label': 'Head pose'})
  const followField = field('head pose', follow)
  const sound = h('audio', {preload: 'auto'})
  const transport = h('div', {class: 'sg-row'}, play, scrub, time, followField)
  panel.append(transport,
    h('div', {class: 'sg-row'}, field('draw', mode), field('colour', color), boxes, reset),
    h('div', {class: 'sg-row'}, field('size', slider('grow', 0.1, 2, 0.05, 'Size of the Gaussians')),
                                field('opacity', slider('fade', 0.1, 2, 0.05, 'Opacity of the Gaussians'))))
  transport.hidden = true
  on(follow, 'change', () => { set('follow', follow.checked); touch(true) }); watch('change:follow', () => { follow.checked = get('follow'); touch(true) })
  watch('change:hidden', () => { showBoxes(); touch(true) })
  for (const k of ['yaw', 'pitch', 'zoom']) watch('change:'+k, () => { pose[k] = get(k); touch(true) })

  function showBoxes() {
    if (!cloud) return
    boxes.replaceChildren(...(cloud.layers.length < 2 ? [] : cloud.layers.map(({name}) => {
      const box = h('input', {type: 'checkbox', checked: !get('hidden').includes(name), 'aria-label': `Show ${name}`})
      box.addEventListener('change', () => set('hidden', box.checked ? get('hidden').filter(o => o !== name) : [...get('hidden'), name]))
      return field(name, box)
    })))
  }

  // -------- the camera
  const turn = (dx, dy) => move({yaw: pose.yaw+dx, pitch: clamp(pose.pitch+dy, -1.5, 1.5)})
  const move = values => { Object.assign(pose, values); setSoon({...pose}); touch(true) }
  const zoomBy = f => move({zoom: clamp(pose.zoom*f, .2, 12)})
  const home = () => move({yaw: 0, pitch: 0, zoom: 1})
  const fingers = new Map()
  on(canvas, 'pointerdown', e => { canvas.focus({preventScroll: true}); canvas.setPointerCapture(e.pointerId); fingers.set(e.pointerId, e) })
  on(canvas, 'pointermove', e => {
    const before = fingers.get(e.pointerId)
    if (!before) return
    const speed = Math.PI/canvas.clientHeight
    if (fingers.size === 1) turn((e.clientX-before.clientX)*speed, (e.clientY-before.clientY)*speed)
    else {
      const other = [...fingers.values()].find(o => o.pointerId !== e.pointerId), gap = o => Math.hypot(o.clientX-other.clientX, o.clientY-other.clientY)
      zoomBy(gap(e)/Math.max(gap(before), 1))
    }
    fingers.set(e.pointerId, e)
  })
  for (const end of ['pointerup', 'pointercancel', 'lostpointercapture']) on(canvas, end, e => fingers.delete(e.pointerId))
  on(canvas, 'wheel', e => { if (document.activeElement === canvas || e.ctrlKey) { e.preventDefault(); zoomBy(Math.exp(-e.deltaY*.0015)) } }, {passive: false})
  on(canvas, 'dblclick', home); on(reset, 'click', home)
  const keys = {ArrowLeft: () => turn(-.1, 0), ArrowRight: () => turn(.1, 0), ArrowUp: () => turn(0, -.1), ArrowDown: () => turn(0, .1),
    '+': () => zoomBy(1.15), '=': () => zoomBy(1.15), '-': () => zoomBy(1/1.15), '0': home, Home: home, ' ': toggle, ',': () => seek(frame-1), '.': () => seek(frame+1)}
  on(canvas, 'keydown', e => { if (keys[e.key] && !e.ctrlKey && !e.metaKey && !e.altKey) { e.preventDefault(); e.stopPropagation(); keys[e.key]() } })

  // -------- frames of motion, asked for in chunks and kept up to KEEP bytes
  let frame = 0, playing = false, started = 0, chunks = new Map(), asked = new Set(), soundUrl
  const motion = () => cloud?.motion
  const chunkOf = i => Math.floor(i/motion().chunk)
  function ask(k) {
    if (k < 0 || k*motion().chunk >= motion().frames || chunks.has(k) || asked.has(k)) return
    asked.add(k); model.send({kind: 'frames', chunk: k, token: cloud.token})
  }
  function load(i) {
    const k = chunkOf(i), {chunk, lo, hi} = motion(), n = cloud.n
    for (const next of [k, k+1, k+2]) ask(next)
    if (!chunks.has(k)) return false
    if (shownFrame === i) return true
    const [m, q, s] = chunks.get(k), at = (i-k*chunk)*n*3, step = [0, 1, 2].map(d => (hi[d]-lo[d])/65535)
    for (let j=0, f=at, o=0; j<n; j++, f+=3, o+=4) for (let d=0; d<3; d++) means[o+d] = lo[d]+m[f+d]*step[d]
    painter.load('means', means)
    painter.load('quats', q.subarray((i-k*chunk)*n*4, (i-k*chunk+1)*n*4)); painter.load('scales', s.subarray(at, at+n*3))
    shownFrame = i
    return true
  }
  function seek(i, keep = false) {
    if (!motion()) return
    frame = clamp(Math.round(i), 0, motion().frames-1)
    if (!keep) { started = performance.now()-1000*frame/motion().fps; if (sound.src) sound.currentTime = (frame+.01)/motion().fps }
    scrub.value = frame; scrub.setAttribute('aria-valuetext', clock(frame/motion().fps))
    time.textContent = `${clock(frame/motion().fps)} / ${clock(motion().frames/motion().fps)}`
    setSoon({frame, ...pose}); touch(true)
  }
  async function toggle() {
    if (!motion()) return
    playing = !playing
    if (playing && frame >= motion().frames-1) seek(0)
    status.setAttribute('aria-live', playing ? 'off' : 'polite')
    play.textContent = playing ? '⏸' : '▶'; play.setAttribute('aria-label', playing ? 'Pause' : 'Play')
    started = performance.now()-1000*frame/motion().fps
    if (!playing) sound.pause()
    else if (sound.src) await sound.play().catch(() => { if (playing) status.textContent = 'The browser did not allow the sound to start; press play again.' })
    touch()
  }
  function advance() {
    const {frames, fps} = motion(), now = sound.src && !sound.ended && !sound.paused ? sound.currentTime : (performance.now()-started)/1000
    if (!chunks.has(chunkOf(frame))) { sound.pause(); root.dataset.waiting = '1'; return load(frame) }
    if (root.dataset.waiting) { delete root.dataset.waiting; started = performance.now()-1000*frame/fps; if (sound.src) sound.play().catch(() => {}) ; return }
    const next = Math.floor(now*fps)
    if (next >= frames) { seek(frames-1, true); toggle() } else if (next !== frame) seek(next, true)
  }
  on(play, 'click', toggle); on(scrub, 'input', () => seek(+scrub.value))
  watch('change:frame', () => { if (!playing && motion() && get('frame') !== frame) seek(get('frame')) })

  // -------- messages
  function onMessage(message, buffers) {
    if (message.kind === 'cloud') {
      const [m, q, s, c, a, v, w] = buffers.map(bytes), xyz = new Float32Array(m)
      cloud = {...message, views: v.byteLength ? new Float32Array(v) : null, half: {quats: new Uint16Array(q), scales: new Uint16Array(s), colors: new Uint16Array(c)},
               attention: new Uint8Array(a), rest: new Float32Array(4*message.n)}
      for (let i=0; i<message.n; i++) for (let d=0; d<3; d++) cloud.rest[4*i+d] = xyz[3*i+d]
      chunks.clear(); asked.clear(); frame = 0
      URL.revokeObjectURL(soundUrl); sound.removeAttribute('src')
      if (w.byteLength) sound.src = soundUrl = URL.createObjectURL(new Blob([w], {type: 'audio/wav'}))
      transport.hidden = !motion(); followField.hidden = !cloud.views
      if (motion()) { scrub.max = motion().frames-1; seek(get('frame')) }
      for (const o of color.options) o.disabled = o.value === 'attention' && !cloud.attention.length || o.value === 'displacement' && !motion()
      showBoxes(); resize(); upload()
      status.textContent = describe()
    } else if (message.kind === 'frames' && message.token === cloud?.token) {
      asked.delete(message.chunk)
      chunks.set(message.chunk, buffers.map(b => new Uint16Array(bytes(b))))
      let held = 0
      for (const set of chunks.values()) for (const b of set) held += b.byteLength
      for (const k of chunks.keys()) if (held > KEEP && Math.abs(k-chunkOf(frame)) > 2) { for (const b of chunks.get(k)) held -= b.byteLength; chunks.delete(k) }
      touch(true)
    }
  }
  const legend = () => ({opacity: 'dark is transparent, yellow opaque', depth: 'yellow is near, dark far', attention: 'red listens to speech, blue to expression, purple to both',
    displacement: `dark is at rest, yellow ${(1000*(motion()?.far || 0)).toPrecision(2)} mm from its place`})[get('color')]
  const describe = () => [`${cloud.n.toLocaleString('en')} Gaussians`, legend(), rate && playing && `${rate.toFixed(0)} frames a second`].filter(o => o).join(' · ')
  watch('msg:custom', onMessage)

  function resize() {
    const f = get('size')/cloud.height*Math.min(get('sharp') || window.devicePixelRatio || 1, 2)
    canvas.width = Math.round(cloud.width*f); canvas.height = Math.round(cloud.height*f)
    stage.style.width = `${get('size')*cloud.width/cloud.height}px`; stage.style.aspectRatio = `${cloud.width}/${cloud.height}`
  }
  watch('change:size', () => { if (cloud) { resize(); touch() } })
  function upload() {
    means = cloud.rest.slice(); order = new Uint32Array(WIDTH*Math.ceil(cloud.n/WIDTH)); shownFrame = -1
    painter.load('means', means); painter.load('rest', cloud.rest)
    for (const k in cloud.half) painter.load(k, cloud.half[k])
    painter.load('attention', cloud.attention)
    touch(true)
  }

  // -------- one picture
  function paint() {
    const view = get('follow') && cloud.views ? cloud.views.subarray(16*frame, 16*frame+16) : cloud.view
    const now = orbit(view, cloud.target, pose.yaw, pose.pitch, pose.zoom), f = canvas.height/cloud.height
    if (resort) { const begin = performance.now(); count = sortFarToNear(means, cloud.n, cloud.layers, name => !get('hidden').includes(name), now.R, now.t, order); sorted = performance.now()-begin; painter.load('order', order); resort = false }
    const z = apply(now.R, cloud.target)[2]+now.t[2]
    painter.paint(count, now, {mode: get('mode'), color: get('color'), grow: get('grow'), fade: get('fade'), far: motion()?.far || 1,
      K: cloud.K.map(x => x*f), width: canvas.width, height: canvas.height, depths: [z-cloud.radius, z+cloud.radius]})
  }
  function draw(at) {
    dirty = false
    if (closed || !cloud || gl.isContextLost()) return
    if (playing) advance()
    heard = sound.currentTime
    if (motion() && !load(frame)) { if (playing) touch(); return }
    paint()
    root.dataset.state = 'drawn'; root.dataset.draws = +(root.dataset.draws || 0)+1; still.hidden = true
    if (at && at-last < 1000) rate = rate ? .9*rate+.1*1000/Math.max(at-last, 1) : 1000/Math.max(at-last, 1)
    else rate = 0
    last = at || 0
    if (status.textContent !== describe()) status.textContent = describe()
    if (playing) touch()
  }
  on(canvas, 'webglcontextlost', e => { e.preventDefault(); status.textContent = 'The graphics context was lost; it is being restored.' })
  on(canvas, 'webglcontextrestored', () => { painter = makePainter(gl); if (cloud) { upload(); status.textContent = describe() } })

  // for tests and measurements: the picture as premultiplied RGBA (rows from the top), and milliseconds a turning frame
  root.sg = {
    pixels() {
      paint()
      const {width, height} = canvas, raw = new Uint8Array(4*width*height), out = new Uint8Array(raw.length)
      gl.readPixels(0, 0, width, height, gl.RGBA, gl.UNSIGNED_BYTE, raw)
      for (let y=0; y<height; y++) out.set(raw.subarray(4*width*(height-1-y), 4*width*(height-y)), 4*width*y)
      return {width, height, data: out}
    },
    bench(frames = 20) {
      const was = {...pose}, one = new Uint8Array(4), begin = performance.now()
      let submit = 0, sort = 0
      for (let i=0; i<frames; i++) {
        pose.yaw += .05; resort = true
        const t = performance.now(); paint(); submit += performance.now()-t; sort += sorted
        gl.readPixels(0, 0, 1, 1, gl.RGBA, gl.UNSIGNED_BYTE, one)
      }
      const ms = (performance.now()-begin)/frames
      pose = was; touch(true)
      return {ms, sort: sort/frames, submit: submit/frames, width: canvas.width, height: canvas.height}
    },
    get state() { return {frame, shownFrame, playing, heard, ...pose, count} },
  }

  model.send({kind: 'hello'})
  return () => {
    closed = true; sound.pause(); leave(); URL.revokeObjectURL(soundUrl)
    gl.getExtension('WEBGL_lose_context')?.loseContext()
  }
}

export default {render}
