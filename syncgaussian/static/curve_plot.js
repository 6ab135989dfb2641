// CurvePlot: curves over one axis with a playhead, an offset that shifts some of them, and words under the axis.
// The curves come as one binary message; the playhead and the offset are traits, so that other widgets can be tied to them.

const COLORS = ['#3d85d8', '#e07020', '#2f9e5b', '#a06ac8', '#c8508c', '#8a8a30']
const CLOSE = 4  // units of the axis that are shown around the playhead when one looks closer
const DASHES = [[], [7, 3], [2, 3], [9, 3, 2, 3], [4, 4], [1, 2]]

function ticks(lo, hi, most) {
  const rough = (hi-lo)/most, power = 10**Math.floor(Math.log10(rough)), step = power*[1, 2, 5, 10].find(f => f*power >= rough*.999), found = []
  for (let k=Math.ceil(lo/step-1e-6); k*step <= hi+1e-6*step; k++) found.push(+(k*step).toPrecision(6))
  return found
}
const figure = v => Number.isFinite(v) ? v.toPrecision(3) : '–'

function render({model, el}) {
  const {on, watch, get, setSoon, showStill, redraw, leave} = ties(model)
  const canvas = h('canvas', {class: 'sg-curves', role: 'slider', tabindex: '0', 'aria-label': 'Place on the axis: arrow keys move it, with shift by ten'})
  const still = h('img', {class: 'sg-still', alt: 'Still picture of the curves'})
  const legend = h('div', {class: 'sg-row sg-legend'})
  const zoom = h('input', {type: 'checkbox', 'aria-label': `Show ${CLOSE} units of the axis around the playhead`}), zoomField = h('label', {class: 'sg-field'}, zoom, h('span', {}, 'closer'))
  const root = h('div', {class: 'sg-widget sg-plot', role: 'group', 'aria-label': 'Curves', 'data-lm-suppress-shortcuts': 'true'}, still, canvas, h('div', {class: 'sg-row'}, legend, zoomField))
  el.append(root)
  showStill(still)

  let data = null, values = [], dirty = false, closed = false, frame = null, held = null
  const touch = () => { if (!dirty && !closed) { dirty = true; requestAnimationFrame(draw) } }
  const first = () => data.first, last = () => data.first+Math.max(1, ...data.values.map(v => v.length))-1
  const sample = (k, at) => data.values[k][Math.round(at)-data.first+(data.moving[k] ? Math.round(get('offset')) : 0)]

  function range(values) {
    let lo = Infinity, hi = -Infinity
    for (const v of values) for (const y of v) if (Number.isFinite(y)) { lo = Math.min(lo, y); hi = Math.max(hi, y) }
    if (!(lo <= hi)) return [0, 1]
    const pad = Math.max(.06*(hi-lo), 1e-9+1e-3*Math.abs(hi))
    return [lo-pad, hi+pad]
  }

  function part() {  // the samples between the edges of the picture: all, or some around the playhead (they stay while it is dragged)
    const lo = first(), hi = Math.max(last(), lo+1), half = get('window')/data.dx/2
    if (!half || 2*half >= hi-lo) return [lo, hi]
    const middle = clamp(get('cursor'), lo+half, hi-half)
    return held ?? [middle-half, middle+half]
  }
  function draw() {
    dirty = false
    const W = root.clientWidth-16
    if (closed || !data || W < 40) return
    const sharp = Math.min(window.devicePixelRatio || 1, 2), H = get('height'), style = getComputedStyle(root)
    const [ink, faint, paper] = ['--sg-ink', '--sg-line', '--sg-soft'].map(o => style.getPropertyValue(o))
    canvas.style.height = `${H}px`; canvas.width = Math.round(W*sharp); canvas.height = Math.round(H*sharp)
    const c = canvas.getContext('2d')
    c.setTransform(sharp, 0, 0, sharp, 0, 0); c.font = '11px sans-serif'
    const words = data.labels.length ? 15 : 0, own = data.own, left = own ? 20 : 52, right = W-8, top = 6, bottom = H-30-words
    const [lo, hi] = part(), span = hi-lo, x = i => left+(i-lo)/span*(right-left), shared = range(data.values)
    const ranges = data.values.map(v => own ? range([v]) : shared), y = (k, v) => bottom-(v-ranges[k][0])/(ranges[k][1]-ranges[k][0])*(bottom-top)
    frame = {left, right, lo, hi}
    c.fillStyle = paper; c.fillRect(left, top, right-left, bottom-top)
    c.fillStyle = ink; c.textAlign = 'center'; c.textBaseline = 'top'
    for (const t of ticks(lo*data.dx, hi*data.dx, Math.max(2, (right-left)/80))) {
      const at = x(t/data.dx)
      line(c, faint, 1, [at, top], [at, bottom]); c.fillText(`${t}`, at, bottom+3)
    }
    c.textAlign = 'center'; c.fillText(data.xlabel, (left+right)/2, bottom+words+16)
    c.textBaseline = 'middle'
    if (!own && data.values.length) {
      c.textAlign = 'right'
      for (const t of ticks(...shared, Math.max(2, (bottom-top)/26))) {
        const at = y(0, t)
        line(c, faint, 1, [left, at], [right, at]); c.fillText(`${t}`, left-4, at)
      }
    }
    c.save(); c.translate(9, (top+bottom)/2); c.rotate(-Math.PI/2); c.textAlign = 'center'; c.fillText(data.ylabel, 0, 0); c.restore()
    c.save(); c.beginPath(); c.rect(left, 0, right-left, H); c.clip()
    data.values.forEach((v, k) => {
      const shift = data.moving[k] ? get('offset') : 0
      c.strokeStyle = COLORS[k%COLORS.length]; c.lineWidth = 1.7; c.setLineDash(DASHES[k%DASHES.length]); c.beginPath()
      let pen = false
      v.forEach((value, i) => {
        if (!Number.isFinite(value)) { pen = false; return }
        const to = [x(i+first()-shift), y(k, value)]
        pen ? c.lineTo(...to) : c.moveTo(...to); pen = true
      })
      c.stroke()
    })
    c.setLineDash([])
    let free = left
    const seen = data.labels.filter(o => x(o[2]/data.dx-get('offset')) > left && x(o[1]/data.dx-get('offset')) < right), roomy = (right-left)/Math.max(seen.length, 1) > 14
    c.fillStyle = ink; c.textAlign = 'center'; c.textBaseline = 'alphabetic'; c.font = '11px sans-serif'
    for (const [text, start, end] of seen) {
      const a = x(start/data.dx-get('offset')), b = x(end/data.dx-get('offset')), half = c.measureText(text).width/2
      if (roomy) line(c, faint, 1, [a, bottom+16], [a, bottom+15+words])
      if ((a+b)/2-half >= free) { c.fillText(text, (a+b)/2, bottom+26); free = (a+b)/2+half+2 }
    }
    const now = x(clamp(get('cursor'), first(), last()))
    line(c, ink, 2, [now, top], [now, bottom])
    c.restore()
    tell()
    still.hidden = true; root.dataset.state = 'drawn'
  }
  function tell() {  // the values under the playhead, for eyes and for readers of the screen
    const at = clamp(get('cursor'), first(), last())
    const said = data.labels.find(o => o[1] <= (at+.5+get('offset'))*data.dx && (at+.5+get('offset'))*data.dx < o[2])
    const where = `${+(at*data.dx).toFixed(2)}${said ? ` [${said[0]}]` : ''}`
    values.forEach((o, k) => { o.textContent = figure(sample(k, at)) })
    legend.firstChild.textContent = `${data.xlabel}: ${where}`
    canvas.setAttribute('aria-valuemin', first()); canvas.setAttribute('aria-valuemax', last()); canvas.setAttribute('aria-valuenow', at)
    canvas.setAttribute('aria-valuetext', `${data.xlabel} ${where}: `+data.names.map((n, k) => `${n} ${figure(sample(k, at))}`).join(', '))
  }

  const seek = i => {
    if (!data) return
    const at = clamp(Math.round(i), first(), last())
    model.set('cursor', at); setSoon({cursor: at}); touch()
  }
  const rub = e => { if (frame) seek(frame.lo+(e.clientX-canvas.getBoundingClientRect().left-frame.left)/(frame.right-frame.left)*(frame.hi-frame.lo)) }
  let rubbing = false
  on(canvas, 'pointerdown', e => { rubbing = true; held = frame && get('window') ? [frame.lo, frame.hi] : null; canvas.setPointerCapture(e.pointerId); canvas.focus({preventScroll: true}); rub(e) })
  on(canvas, 'pointermove', e => { if (rubbing) rub(e) })
  for (const end of ['pointerup', 'pointercancel', 'lostpointercapture']) on(canvas, end, () => { rubbing = false; held = null; touch() })
  const step = (e, d) => seek(get('cursor')+d*(e.shiftKey ? 10 : 1))
  const keys = {ArrowLeft: e => step(e, -1), ArrowRight: e => step(e, 1), Home: () => seek(-1e9), End: () => seek(1e9)}
  on(canvas, 'keydown', e => { if (keys[e.key] && !e.ctrlKey && !e.metaKey && !e.altKey) { e.preventDefault(); e.stopPropagation(); keys[e.key](e) } })

  watch('msg:custom', (message, buffers) => {
    if (message.kind !== 'curves') return
    data = {...message, values: buffers.map(b => new Float32Array(bytes(b)))}
    canvas.setAttribute('aria-label', `${data.ylabel || 'Curves'} over ${data.xlabel}: arrow keys move the playhead, with shift by ten`)
    values = data.names.map(() => h('output', {class: 'sg-time'}))
    legend.replaceChildren(h('output', {class: 'sg-time'}), ...data.names.map((name, k) => {
      const sample = h('canvas', {class: 'sg-swatch', width: 26, height: 8, 'aria-hidden': 'true'}), c = sample.getContext('2d')
      c.setLineDash(DASHES[k%DASHES.length]); line(c, COLORS[k%COLORS.length], 2.5, [0, 4], [26, 4])
      return h('span', {class: 'sg-field'}, sample, h('span', {}, name), values[k])
    }))
    zoomField.hidden = !data.labels.length || (last()-first())*data.dx < 1.5*CLOSE
    touch()
  })
  const pullZoom = () => { zoom.checked = get('window') > 0; touch() }
  on(zoom, 'change', () => { model.set('window', zoom.checked ? CLOSE : 0); model.save_changes(); touch() }); watch('change:window', pullZoom)
  zoomField.hidden = true; pullZoom()
  for (const name of ['cursor', 'offset', 'height']) watch('change:'+name, touch)
  redraw(root, touch)

  root.sg = {
    pixels() { draw(); const {width, height} = canvas; return {width, height, data: canvas.getContext('2d').getImageData(0, 0, width, height).data} },
    get state() { return {cursor: get('cursor'), offset: get('offset'), values: data?.names.map((_, k) => sample(k, clamp(get('cursor'), first(), last())))} },
  }
  model.send({kind: 'hello'})
  return () => { closed = true; leave() }
}

export default {render}
