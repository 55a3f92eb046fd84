// The script for merchants' pages: keeps the click that brought the shopper, reports conversions.
//
//   <script async src="https://go.shop.example/t.js" data-key="trk_pub_..."></script>
//   <script>
//     window.tributary = window.tributary || function () { (tributary.q = tributary.q || []).push(arguments) }
//     tributary('conversion', { order_id: 'A-1001', amount: '49.90', currency: 'USD' })
//   </script>
//
// data-param  parameter of the landing page's address that carries the click id; click_id
// data-days   how long the click is kept; 30
//
// Served as t.min.js: run minify.sh after a change.
(function (window, document) {
  const NAME = 'aff_click_id'
  const DAY_MS = 864e5
  const RETRY_MS = 5e3
  const ATTEMPTS = 3

  const script = document.currentScript || document.querySelector('script[data-key]')
  const settings = script.dataset
  const host = new URL(script.src).origin
  const days = settings.days || 30
  // A shopper who opted out is remembered by nothing; the click counts on this page alone.
  const forget = navigator.globalPrivacyControl

  // On the domain that the whole shop shares: the shortest one that the browser doesn't take for a
  // public suffix. Else this host's own cookie, else localStorage.
  function keep(id) {
    const labels = location.hostname.split('.')
    for (let n = labels.length - 1; n >= -1; n--) {
      const domain = n < 0 ? '' : ';domain=' + labels.slice(n).join('.')
      document.cookie = NAME + '=' + id + ';path=/;samesite=lax;max-age=' + days * 86400 + domain +
        (location.protocol == 'https:' ? ';secure' : '')
      if (cookie() == id) return
    }
    localStorage[NAME] = Date.now() + days * DAY_MS + ' ' + id
  }

  function cookie() {
    return (document.cookie.match('(?:^|; )' + NAME + '=([\\w-]+)') || [])[1]
  }

  function kept() {
    const [until, id] = (localStorage[NAME] || '').split(' ')
    return cookie() || (until > Date.now() ? id : undefined)
  }

  // Storage may be forbidden, as in a sandboxed frame.
  function attempt(action, id) {
    try {
      return forget ? undefined : action(id)
    } catch (e) {}
  }

  // Only what has a click id's form: other networks use the same parameter.
  const [landed] = (new URLSearchParams(location.search).get(settings.param || 'click_id') || '')
    .match(/^[\w-]{48}$/) || []
  if (landed) attempt(keep, landed)

  function send(body, left) {
    const url = host + '/v1/events'
    const beacon = () => navigator.sendBeacon(url, body)
    if (!window.fetch) return beacon()
    // A string goes as text/plain, which needs no preflight.
    fetch(url, { method: 'POST', body, keepalive: true, credentials: 'include' }).then((answer) => {
      if (left > 1 && (answer.status == 429 || answer.status >= 500)) {
        setTimeout(send, RETRY_MS, body, left - 1)
      }
      if (!answer.ok) answer.text().then((why) => console.warn('tributary:', why))
    }, beacon)
  }

  const waiting = (window.tributary || {}).q || []
  window.tributary = function (what, order) {
    if (what == 'conversion') {
      send(
        JSON.stringify({
          ...order,
          key: settings.key,
          click_id: (order || {}).click_id || landed || attempt(kept)
        }),
        ATTEMPTS
      )
    }
  }
  for (const call of waiting) window.tributary(...call)
})(window, document)
