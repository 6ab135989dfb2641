// FramePlayer: one or two films of frames with their sound, a wipe between them and a crop at twice the size.
// Frames come as JPEG in chunks that this view asks for; settings live in the widget's traits.

const KEEP = 192 << 20  // bytes of decoded pictures kept in the browser

function render({model, el}) {
  const {on, watch, get, setSoon, showStill, redraw, leave} = ties(model)

  const canvas = h('canvas', {class: 'sg-canvas', tabindex: '0', role: 'img', 'aria-label':
    'Frames. Space plays, left and right arrows step a frame, with shift a second, square brackets move the wipe, C shows the crop at twice the size.'})
  const still = h('img', {class: 'sg-still', alt: 'Still picture of the frames'})
  const stage = h('div', {class: 'sg-stage'}, still, canvas)
  const zoomed = h('canvas', {class: 'sg-crop', role: 'img', 'aria-label': 'The crop at twice the size'})
  const wave = h('canvas', {class: 'sg-wave', role: 'slider', tabindex: '0', 'aria-label': 'Time in the sound', 'aria-valuemin': '0'})
  const status = h('div', {class: 'sg-status', role: 'status'}, 'Waiting for the kernel: the still picture is shown until the frames arrive.')
  const play = h('button', {type: 'button', class: 'sg-play', 'aria-label': 'Play'}, '▶')
  const scrub = h('input', {type: 'range', min: '0', max: '0', step: '1', value: '0', class: 'sg-scrub', 'aria-label': 'Frame'})
  const time = h('output', {class: 'sg-time'})
  const wipe = h('input', {type: 'range', min: '0', max: '1', step: '0.01', 'aria-label': 'Wipe between A and B'})
  const wipeField = h('label', {class: 'sg-field'}, h('span', {}, 'wipe'), wipe)
  const crop = h('input', {type: 'checkbox', 'aria-label': 'Crop at twice the size'})
  const cropField = h('label', {class: 'sg-field'}, crop, h('span', {}, '2× crop'))
  const sound = h('audio', {preload: 'auto'})
  const pictures = h('div', {class: 'sg-row'}, stage, zoomed)
  const root = h('div', {class: 'sg-widget sg-player', role: 'group', 'aria-label': 'Frame player', 'data-lm-suppress-shortcuts': 'true'},
    pictures, wave, h('div', {class: 'sg-row'}, play, scrub, time), h('div', {class: 'sg-row'}, wipeField, cropField), status)
  el.append(root)

  let soundUrl
  showStill(still)

  let film = null, frame = 0, playing = false, started = 0, closed = false, dirty = false, drawn = -1, heard = 0
  const chunks = new Map(), asked = new Set()  // chunk -> [[picture A, picture B], ...]
  const touch = () => { if (!dirty && !closed) { dirty = true; requestAnimationFrame(draw) } }
  const chunkOf = i => Math.floor(i/film.chunk)
  const ask = k => {
    if (k < 0 || k*film.chunk >= film.frames || chunks.has(k) || asked.has(k)) return
    asked.add(k); model.send({kind: 'frames', chunk: k, token: film.token})
  }
  const pictureAt = i => {
    const k = chunkOf(i)
    for (const next of [k, k+1, k+2]) ask(next)
    return chunks.get(k)?.[i-k*film.chunk]
  }

  // -------- time
  function seek(i, keep = false) {
    if (!film) return
    frame = clamp(Math.round(i), 0, film.frames-1)
    if (!keep) { started = performance.now()-1000*frame/film.fps; if (sound.src) sound.currentTime = Math.max(0, (frame+get('offset')+.01)/film.fps) }
    const at = clock(frame/film.fps)
    scrub.value = frame; scrub.setAttribute('aria-valuetext', at); wave.setAttribute('aria-valuenow', frame); wave.setAttribute('aria-valuetext', at)
    const moment = (frame+.5+get('offset'))/film.fps, said = film.labels.find(o => o[1] <= moment && moment < o[2])
    time.textContent = `${said ? `[${said[0]}] ` : ''}${at} / ${clock(film.frames/film.fps)}`
    model.set('frame', frame); setSoon({frame}); touch()
  }
  async function toggle() {
    if (!film) return
    playing = !playing
    if (playing && frame >= film.frames-1) seek(0)
    play.textContent = playing ? '⏸' : '▶'; play.setAttribute('aria-label', playing ? 'Pause' : 'Play')
    started = performance.now()-1000*frame/film.fps
    if (!playing) sound.pause()
    else if (sound.src) await sound.play().catch(() => { if (playing) status.textContent = 'The browser did not allow the sound to start; press play again.' })
    touch()
  }
  function advance() {
    if (!pictureAt(frame)) { sound.pause(); root.dataset.waiting = '1'; return }
    if (root.dataset.waiting) { delete root.dataset.waiting; started = performance.now()-1000*frame/film.fps; if (sound.src) sound.play().catch(() => {}); return }
    const heard = sound.src && !sound.ended && !sound.paused
    const next = Math.floor(heard ? sound.currentTime*film.fps-get('offset') : (performance.now()-started)/1000*film.fps)
    if (next >= film.frames) { seek(film.frames-1, true); toggle() } else if (next !== frame) seek(Math.max(next, 0), true)
  }

  // -------- drawing
  const box = () => { const b = get('crop'); return b?.length === 4 ? b : null }
  function lay(context, pair, x, y, w, h, W, H) {  // the part (x, y, w, h) of the wiped picture, on W x H
    context.drawImage(pair[0], x, y, w, h, 0, 0, W, H)
    const split = clamp((get('wipe')*film.width-x)/w, 0, 1)
    if (pair[1] && split < 1) context.drawImage(pair[1], x+w*split, y, w*(1-split), h, W*split, 0, W*(1-split), H)
  }
  function draw() {
    dirty = false
    if (closed || !film) return
    if (playing) advance()
    heard = sound.currentTime
    drawWave()
    const pair = pictureAt(frame)
    if (!pair) { if (playing) touch(); return }
    const {width: W, height: H} = canvas, f = W/film.width, context = canvas.getContext('2d')
    lay(context, pair, 0, 0, film.width, film.height, W, H)
    if (pair[1]) {
      const x = get('wipe')*W
      line(context, '#000', 3, [x, 0], [x, H]); line(context, '#fff', 1, [x, 0], [x, H])
      context.font = '12px sans-serif'; context.lineWidth = 3; context.strokeStyle = '#000'; context.fillStyle = '#fff'
      film.names.forEach((name, i) => {
        context.textAlign = i ? 'right' : 'left'
        context.strokeText(name, i ? W-6 : 6, 15); context.fillText(name, i ? W-6 : 6, 15)
      })
    }
    const b = box(), show = b && get('show_crop')
    zoomed.hidden = !show
    if (show) {
      const [x, y, w, h] = [b[0], b[1], b[2]-b[0], b[3]-b[1]]
      if (zoomed.width !== Math.round(2*w*f)) { zoomed.width = Math.round(2*w*f); zoomed.height = Math.round(2*h*f) }
      lay(zoomed.getContext('2d'), pair, x, y, w, h, zoomed.width, zoomed.height)
      context.lineWidth = 1; context.strokeStyle = '#fff'; context.strokeRect(x*f+.5, y*f+.5, w*f, h*f)
    }
    drawn = frame; still.hidden = true
    root.dataset.state = 'drawn'; root.dataset.draws = +(root.dataset.draws || 0)+1
    if (playing) touch()
  }
  function drawWave() {
    const peaks = get('peaks'), sharp = Math.min(window.devicePixelRatio || 1, 2), W = Math.round(wave.clientWidth*sharp), H = Math.round(wave.clientHeight*sharp)
    wave.hidden = !peaks?.byteLength
    if (wave.hidden || !W) return
    if (wave.width !== W || wave.height !== H) { wave.width = W; wave.height = H }
    const style = getComputedStyle(root), context = wave.getContext('2d'), n = peaks.byteLength/2, length = film.frames/film.fps, foot = film.labels.length ? 14*sharp : 0
    const y = v => (H-foot)*(1-v/255), x = t => t/length*W, shift = get('offset')/film.fps
    context.clearRect(0, 0, W, H); context.fillStyle = style.getPropertyValue('--sg-accent')
    for (let i=0; i<n; i++) {
      const top = y(peaks.getUint8(2*i+1)), at = x(film.seconds*i/n-shift)
      context.fillRect(at, top, Math.max(x(film.seconds/n)-.3, .7), Math.max(y(peaks.getUint8(2*i))-top, 1))
    }
    context.fillStyle = style.getPropertyValue('--sg-ink'); context.font = `${10*sharp}px sans-serif`; context.textAlign = 'center'
    let free = 0
    const roomy = W/sharp/Math.max(film.labels.length, 1) > 14
    for (const [text, start, end] of film.labels) {
      const middle = x((start+end)/2-shift), half = context.measureText(text).width/2
      if (middle-half >= free) { context.fillText(text, middle, H-3*sharp); free = middle+half+2*sharp }
      if (roomy) line(context, style.getPropertyValue('--sg-line'), 1, [x(start-shift), H-foot], [x(start-shift), H])
    }
    const now = x(frame/film.fps)
    line(context, style.getPropertyValue('--sg-warm'), 2*sharp, [now, 0], [now, H])
  }

  // -------- hands
  const pullWipe = () => { wipe.value = get('wipe'); touch() }, setWipe = v => { model.set('wipe', clamp(v, 0, 1)); setSoon({wipe: get('wipe')}); pullWipe() }
  const pullCrop = () => { crop.checked = get('show_crop'); touch() }, setCrop = v => { model.set('show_crop', v); model.save_changes(); pullCrop() }
  watch('change:wipe', pullWipe); watch('change:show_crop', pullCrop); watch('change:crop', touch); watch('change:offset', () => { seek(frame) })
  watch('change:peaks', touch); watch('change:size', () => { if (film) { resize(); touch() } })
  watch('change:frame', () => { if (!playing && film && get('frame') !== frame) seek(get('frame')) })
  on(play, 'click', toggle); on(scrub, 'input', () => seek(+scrub.value)); on(wipe, 'input', () => setWipe(+wipe.value)); on(crop, 'change', () => setCrop(crop.checked))
  let held = null
  const at = (node, e) => { const r = node.getBoundingClientRect(); return [(e.clientX-r.left)/r.width, (e.clientY-r.top)/r.height] }
  on(canvas, 'pointerdown', e => {
    if (!film) return
    const [x, y] = at(canvas, e), b = box(), px = x*film.width, py = y*film.height, f = film.width/canvas.clientWidth
    const inside = b && get('show_crop') && px > b[0] && px < b[2] && py > b[1] && py < b[3], near = film.two && Math.abs(px-get('wipe')*film.width) < 8*f
    held = near || film.two && !inside ? {wipe: true} : inside ? {b, px, py} : null
    canvas.setPointerCapture(e.pointerId); canvas.focus({preventScroll: true}); if (held?.wipe) setWipe(x)
  })
  on(canvas, 'pointermove', e => {
    if (!held) return
    const [x, y] = at(canvas, e)
    if (held.wipe) return setWipe(x)
    const {b, px, py} = held, dx = clamp(Math.round(x*film.width-px), -b[0], film.width-b[2]), dy = clamp(Math.round(y*film.height-py), -b[1], film.height-b[3])
    const moved = [b[0]+dx, b[1]+dy, b[2]+dx, b[3]+dy]
    model.set('crop', moved); setSoon({crop: moved}); touch()
  })
  for (const end of ['pointerup', 'pointercancel', 'lostpointercapture']) on(canvas, end, () => { held = null })
  let rubbing = false
  const rub = e => { if (film) seek(at(wave, e)[0]*film.frames-.5) }
  on(wave, 'pointerdown', e => { rubbing = true; wave.setPointerCapture(e.pointerId); rub(e) })
  on(wave, 'pointermove', e => { if (rubbing) rub(e) })
  for (const end of ['pointerup', 'pointercancel', 'lostpointercapture']) on(wave, end, () => { rubbing = false })
  const step = (e, d) => seek(frame+d*(e.shiftKey ? Math.round(film.fps) : 1))
  const keys = {' ': toggle, ArrowLeft: e => step(e, -1), ArrowRight: e => step(e, 1), ',': () => seek(frame-1), '.': () => seek(frame+1), Home: () => seek(0), End: () => seek(1e9),
    '[': () => setWipe(get('wipe')-.05), ']': () => setWipe(get('wipe')+.05), c: () => setCrop(!get('show_crop'))}
  for (const node of [canvas, wave])
    on(node, 'keydown', e => { if (film && keys[e.key] && !e.ctrlKey && !e.metaKey && !e.altKey) { e.preventDefault(); e.stopPropagation(); keys[e.key](e) } })

  // -------- messages
  function resize() {
    const f = get('size')/film.height*Math.min(window.devicePixelRatio || 1, 2)
    canvas.width = Math.round(film.width*f); canvas.height = Math.round(film.height*f)
    stage.style.width = `${get('size')*film.width/film.height}px`; stage.style.aspectRatio = `${film.width}/${film.height}`
    zoomed.style.maxWidth = '100%'
  }
  const forget = () => { for (const set of chunks.values()) for (const pair of set) for (const o of pair) o.close(); chunks.clear(); asked.clear() }
  async function onMessage(message, buffers) {
    if (message.kind === 'film') {
      film = message; forget(); frame = 0
      URL.revokeObjectURL(soundUrl); sound.removeAttribute('src')
      if (buffers[0].byteLength) sound.src = soundUrl = URL.createObjectURL(new Blob([bytes(buffers[0])], {type: 'audio/wav'}))
      wipeField.hidden = !film.two; cropField.hidden = !box(); scrub.max = film.frames-1; wave.setAttribute('aria-valuemax', film.frames-1)
      status.textContent = `${film.frames} frames, ${film.fps} a second`+(film.two ? `: ${film.names[0]} on the left of the wipe, ${film.names[1]} on the right` : '')
      pullWipe(); pullCrop(); resize(); seek(get('frame'))
    } else if (message.kind === 'frames' && message.token === film?.token) {
      const token = film.token, per = film.two ? 2 : 1
      const decoded = await Promise.all(buffers.map(b => createImageBitmap(new Blob([bytes(b)], {type: 'image/jpeg'}))))
      if (closed || token !== film.token) return decoded.forEach(o => o.close())
      asked.delete(message.chunk)
      chunks.set(message.chunk, Array.from({length: decoded.length/per}, (_, i) => decoded.slice(per*i, per*i+per)))
      const one = 4*film.width*film.height*per
      let total = 0
      for (const set of chunks.values()) total += set.length*one
      for (const k of [...chunks.keys()]) if (total > KEEP && Math.abs(k-chunkOf(frame)) > 2) {
        total -= chunks.get(k).length*one
        for (const pair of chunks.get(k)) for (const o of pair) o.close()
        chunks.delete(k)
      }
      touch()
    }
  }
  watch('msg:custom', onMessage)
  redraw(root, touch)

  // for tests
  root.sg = {
    pixels() { draw(); const {width, height} = canvas; return {width, height, data: canvas.getContext('2d').getImageData(0, 0, width, height).data} },
    get state() { return {frame, drawn, playing, heard, wipe: get('wipe')} },
  }

  model.send({kind: 'hello'})
  return () => {
    closed = true; sound.pause(); leave(); forget(); URL.revokeObjectURL(soundUrl)
  }
}

export default {render}
